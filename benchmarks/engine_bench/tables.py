"""The figures as text: for each model its columns, its cells, its strangers, and where a step's time goes."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine_bench.columns import DIFFUSERS

Figures = Mapping[str, Any]
_WORDS = ("equal",)  # that stand for a number


def text_of(figures: Figures) -> str:
    """Everything that was measured so far. figures: the document's."""
    rates = ", ".join(f"{rate / 1e12:.4g} at {side}" for side, rate in figures["matrix_rates"].items())
    head = f"{figures['device']}, {figures['dtype']}, {figures['rounds']} rounds, {figures['clock']} time; matrices, TFLOP/s: {rates}"
    return "\n\n".join([head, *(model_text(one) for one in figures["models"])]) + "\n"


def model_text(model: Figures) -> str:
    """All tables of a model."""
    width, height = model["size"]
    said = f"{model['weights']} weights" if model["weights"] == "random" else model["weights"]
    title = f"{model['model']} ({model['pipeline']}, {said}), {width}x{height}, {model['sampler']}, guidance {model['guidance_scale']:g}"
    if "work" in model:
        title += f", {model['work']['call_flops'] / 1e12:.4g} TFLOP a picture's model call"
    blocks = [f"== {title}", columns_table(model["columns"]), cells_table(model["cells"])]
    if model["strangers"]:
        blocks.append(strangers_table(model["strangers"]))
    blocks += [
        profile_table(name, batch, said) for name, all_ in model["profiles"].items() for batch, said in all_.items()
    ]
    if model["left_out"]:
        blocks.append("Not measured:\n" + "\n".join(f"  {what}: {reason}" for what, reason in model["left_out"]))
    return "\n\n".join(block for block in blocks if block)


def columns_table(columns: Figures) -> str:
    """What each is, what it costs at the start, what it does to the pictures, or why it is not there."""
    rows: list[Sequence[str]] = [
        ("column", "start s", "made ready s", "shapes", "weights MB", "latent error", "PSNR dB", "fell back", "what")
    ]
    for name, said in columns.items():
        if "refused" in said:
            rows.append((name, "-", "-", "-", "-", "-", "-", "-", f"REFUSED: {said['refused']}"))
        else:
            rows.append((name, *_column_cells(said)))
    return grid(rows)


def _column_cells(said: Figures) -> tuple[str, ...]:
    start, end, likeness = said.get("at_start", {}), said.get("at_end", {}), said.get("likeness", {})
    ready_s, shapes = start.get("ready_s", {}), start.get("shapes", {})
    psnr = "-" if not likeness else "equal" if likeness["psnr_db"] is None else f"{likeness['psnr_db']:.1f}"
    fallbacks = {**end.get("fallbacks", {}), **({"recompiled": n} if (n := end.get("recompilations", 0)) else {})}
    return (
        f"{said['start_s']:.1f}" if "start_s" in said else "-",
        f"{sum(ready_s.values()):.1f}" if ready_s else "-",
        " ".join(f"{count} {what}" for what, count in shapes.items()) or "-",
        f"{said['weight_bytes'] / 1e6:.0f}",
        f"{likeness['latent_error']:.1e}" if likeness else "-",
        psnr,
        " ".join(f"{reason} {count}" for reason, count in fallbacks.items()) or "-",
        _effect(said),
    )


def _effect(said: Figures) -> str:
    """What its words did, or what they are."""
    reused = said.get("at_end", {}).get("reused_evaluations", 0)
    done = [f"{name}={value}: {detail}" for name, value, detail in said.get("optimizations", ()) if detail]
    return "; ".join([*done, *([f"{reused} evaluations reused"] if reused else [])]) or said["said"]


def cells_table(cells: Sequence[Figures]) -> str:
    """Cell by cell. diffusers' own: of the first group of columns that it was measured with."""
    heads = ("s/image", "images/s", "steps/s", "x diffusers", "(range)", "of floor", "gap", "peak MB")
    rows: list[Sequence[str]] = [("batch", "steps", "column", *heads)]
    shown = [one for one in cells if one["column"] != DIFFUSERS or one["group"] == 0]
    ordered = sorted(shown, key=lambda cell: (cell["steps"], cell["batch"]))
    rows += [(str(one["batch"]), str(one["steps"]), one["column"], *_speed_cells(one)) for one in ordered]
    return grid(rows) if len(rows) > 1 else ""


def _speed_cells(one: Figures) -> tuple[str, ...]:
    ratio = one.get("speedup")
    return (
        f"{one['image_s']:.3f}",
        f"{one['images_per_s']:.3g}",
        f"{one['steps_per_s']:.3g}",
        "1" if one["column"] == DIFFUSERS else f"{ratio['median']:.2f}" if ratio else "-",
        f"{ratio['least']:.2f}-{ratio['most']:.2f}" if ratio else "",
        f"{100 * one['share_of_floor']:.0f} %" if "share_of_floor" in one else "-",
        f"{100 * one['gap']:.2f} %" if "gap" in one else "-",
        f"{one['peak_bytes'] / 1e6:.0f}",
    )


def strangers_table(measured: Sequence[Figures]) -> str:
    """Milliseconds a model call of as many rows, and ratios of the same rounds."""
    rows: list[Sequence[str]] = [
        (
            "strangers",
            "rows",
            "uniform ms",
            "strangers ms",
            "/ uniform",
            "(range)",
            "diffusers ms",
            "/ diffusers",
            "(range)",
        )
    ]
    for one in measured:
        theirs, over = one.get("diffusers_s"), one.get("strangers_over_diffusers")
        rows.append(
            (
                f"{one['column']}, {one['latents']} for {one['batch']}",
                str(one["rows"]),
                f"{1e3 * one['uniform_s']['median']:.1f}",
                f"{1e3 * one['strangers_s']['median']:.1f}",
                *_ratio_cells(one["strangers_over_uniform"]),
                f"{1e3 * theirs['median']:.1f}" if theirs else "-",
                *(_ratio_cells(over) if over else ("-", "")),
            )
        )
    return grid(rows)


def _ratio_cells(ratio: Figures) -> tuple[str, str]:
    return f"{ratio['median']:.3f}", f"{ratio['least']:.3f}-{ratio['most']:.3f}"


def profile_table(name: str, batch: str, said: Figures) -> str:
    """The largest shares of a step; idle: of the device, or of a CPU outside of operations."""
    rows = [("share", "ms a step", "calls", "operation"), *map(_operation_cells, said["top"])]
    head = (
        f"{name}, batch {batch}: a step of {said['step_ms']:.2f} ms (profiled), idle {100 * said['idle_share']:.1f} %"
    )
    return f"{head}\n{grid(rows)}"


def _operation_cells(one: Figures) -> tuple[str, ...]:
    return f"{100 * one['share']:.1f} %", f"{one['ms_a_step']:.3f}", f"{one['calls_a_step']:.0f}", one["name"][:90]


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need, those of numbers to the right; the first row is the head."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1] in "-0123456789" or cell in _WORDS for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
