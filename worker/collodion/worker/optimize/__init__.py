"""One place for speed: what the settings ask for, what that becomes on a device, and each optimisation in a file of its own.

1. `wishes` is what was asked for, `plan` what it becomes, resolved before anything is loaded. What cannot work is refused with a
   sentence (`Unsuitable`); `auto` never asks for such a thing.
2. Each optimisation says what it changed, in numbers that were counted after the fact (`collodion.wire.jobs.Optimization`). One that
   was asked for and changed nothing is an error.
3. `ready` holds what was compiled or captured, by shapes. Whatever has to run in another way is counted, with its reason (`observer`).
"""
