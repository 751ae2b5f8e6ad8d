"""What runs between two evaluations, and what is done once for many."""

import itertools
import select

from collodion.wire.jobs import LatentId, Stage


def test_running_steps_wait_for_at_most_one_encode_and_one_decode_batch(tiny, drive, spy):
    spied = spy(tiny)
    driver = drive(spied, encode_batch=2, decode_batch=2)
    driver.order("long", steps=12, sampler="ddim", seed=99)
    driver.wish([LatentId("long", 0)])
    driver.engine.round()
    burst = {f"burst{number}": {"steps": 1, "sampler": "ddim", "seed": number} for number in range(8)}
    for job, fields in burst.items():
        driver.order(job, **fields)
    driver.wish([LatentId("long", 0), *(LatentId(job, 0) for job in burst)])
    driver.finish()
    between = ["".join(lane[0] for lane in lanes) for is_step, lanes in split(spied.lanes) if not is_step]
    assert all(lanes.count("e") <= 1 and lanes.count("d") <= 1 for lanes in between)
    assert [size for lane, size in spied.lanes if lane == "encode"] == [1, 2, 2, 2, 2]
    assert max(size for lane, size in spied.lanes if lane == "decode") == 2
    assert spied.evaluations[99] == 12


def split(lanes):
    return (
        (is_step, [lane for lane, _ in group]) for is_step, group in itertools.groupby(lanes, lambda x: x[0] == "step")
    )


def test_a_jobs_prompts_are_encoded_once_for_all_its_images(tiny, drive, spy):
    spied = spy(tiny)
    driver = drive(spied)
    driver.order("job", images=4)
    driver.wish([LatentId("job", image) for image in range(4)])
    driver.finish()
    assert [lane for lane in spied.lanes if lane[0] == "encode"] == [("encode", 1)]
    assert len(driver.recorder.pictures) == 4


def test_a_membership_that_does_not_fit_is_run_in_order_of_urgency(tiny, drive, spy):
    spied = spy(tiny)
    driver = drive(spied, max_batch=2)
    for number in range(3):
        driver.order(f"job{number}", steps=2, sampler="ddim", seed=number)
    driver.wish([LatentId(f"job{number}", 0) for number in (2, 0, 1)])
    driver.engine.round()
    assert dict(spied.evaluations) == {2: 1, 0: 1}
    driver.finish()
    assert dict(spied.evaluations) == {2: 2, 0: 2, 1: 2}


def test_latents_of_another_size_wait_for_their_own_batch(tiny, drive, spy):
    driver = drive(spy(tiny))
    driver.order("square", steps=2, seed=1)
    driver.order("wide", steps=2, seed=2, width=96)
    driver.wish([LatentId("square", 0), LatentId("wide", 0)])
    driver.finish()
    assert driver.recorder.pictures[LatentId("square", 0)].shape == (64, 64, 3)
    assert driver.recorder.pictures[LatentId("wide", 0)].shape == (64, 96, 3)


def test_previews_are_asked_for_every_so_many_steps_and_once_a_step(tiny, drive):
    driver = drive(tiny)
    driver.order("job", preview_interval=2, sampler="heun", steps=6)
    driver.wish([LatentId("job", 0)])
    driver.finish()
    assert [steps for _, steps in driver.recorder.previews] == [2, 4]


def test_a_snapshot_stays_as_it_was_while_its_latent_goes_on(tiny, drive):
    driver = drive(tiny)
    driver.order("job", steps=5)
    driver.wish([LatentId("job", 0)])
    driver.engine.round()
    latent = driver.latent(LatentId("job", 0))
    snapshot = tiny.snapshot(latent.state)
    before = snapshot.clone()
    driver.finish()
    assert bool((snapshot == before).all())


def test_a_prompt_beyond_the_window_is_cut_with_a_warning(tiny, drive):
    driver = drive(tiny)
    driver.order("long", prompt="word " * 500 + "the end", negative_prompt="other " * 500)
    driver.order("short", prompt="word")
    driver.wish([LatentId("long", 0), LatentId("short", 0)])
    driver.finish()
    warnings = driver.latent(LatentId("long", 0)).report().warnings
    assert [reason for reason, _ in warnings] == ["PROMPT_TRUNCATED"] * 2
    assert "the prompt has" in warnings[0][1]
    assert "the negative prompt has" in warnings[1][1]
    assert driver.latent(LatentId("short", 0)).report().warnings == ()


def test_a_parked_latent_shares_no_memory_with_its_last_batch(tiny, drive):
    driver = drive(tiny)
    for number in range(4):
        driver.order(f"job{number}", steps=5, seed=number)
    names = [LatentId(f"job{number}", 0) for number in range(4)]
    driver.wish(names)
    driver.engine.round()
    driver.wish(names[1:], parked=names[:1])
    driver.engine.round()
    state = driver.latent(names[0]).state.trajectory.state
    assert driver.latent(names[0]).stage is Stage.PARKED
    assert state.untyped_storage().nbytes() == state.numel() * state.element_size()


def test_a_latent_whose_picture_is_being_stored_is_not_begun_again(tiny, drive, spy, monkeypatch):
    spied = spy(tiny)
    driver = drive(spied)
    kept = []
    monkeypatch.setattr(driver.recorder, "keep", lambda latent, picture: kept.append(latent))
    driver.order("job", steps=2, sampler="ddim")
    for _ in range(4):
        driver.wish([LatentId("job", 0)])
        driver.engine.round()
    assert [latent.stage for latent in kept] == [Stage.DECODING]
    assert spied.evaluations[7] == 2


def test_a_parked_latent_whose_steps_are_done_is_decoded_all_the_same(tiny, drive, spy):
    driver = drive(spy(tiny))
    driver.order("job", steps=2, sampler="ddim")
    driver.wish([LatentId("job", 0)])
    driver.engine.round()
    driver.engine.round()
    driver.wish([], parked=[LatentId("job", 0)])
    driver.engine.round()
    assert driver.latent(LatentId("job", 0)).stage is Stage.DONE


def test_the_loop_rests_only_when_nothing_is_left_to_do(tiny, drive, monkeypatch):
    driver = drive(tiny, encode_batch=1, decode_batch=2)
    monkeypatch.setattr(tiny, "encode", refusing(tiny.encode))
    for number in range(7):
        driver.order(f"job{number}", steps=1, seed=number, prompt="refused" if number < 3 else "a circle")
    driver.wish([LatentId(f"job{number}", 0) for number in range(7)])
    while driver.engine.round():
        pass
    assert [latent.stage for latent in driver.outbox.held.latents] == [Stage.STOPPED] * 3 + [Stage.DONE] * 4


def refusing(encode):
    def encode_others(plans):
        if any(plan.parameters.prompt == "refused" for plan in plans):
            raise ValueError("refused")
        return encode(plans)

    return encode_others


def test_what_makes_later_batches_faster_holds_up_neither_news_nor_whoever_comes(tiny, drive, spy, monkeypatch):
    spied = spy(tiny)
    driver = drive(spied)
    driver.order("first", steps=1)
    driver.order("second", steps=2, seed=8)
    driver.wish([LatentId("first", 0)])
    rung, done, keep = [], [], driver.recorder.keep

    def kept(latent, picture):
        keep(latent, picture)
        driver.outbox.answer()  # whatever was told until now

    def tidy():
        """There is always something more to do."""
        rung.append(bool(select.select([driver.outbox], [], [], 0)[0]))
        driver.outbox.answer()
        done.append([latent.id.job for latent in driver.outbox.held.latents if latent.stage is Stage.DONE])
        if len(done) == 1:
            driver.wish([LatentId("second", 0)])
        if len(done) == 3:
            driver.engine.stop()
        return True

    spied.tidy = tidy
    monkeypatch.setattr(driver.recorder, "keep", kept)
    driver.engine.run()
    assert rung == [True, True, False]
    assert done[0] == ["first"]
    assert "second" in done[1]


def test_a_step_is_counted_in_rows_of_the_model_call_and_in_latents(tiny, drive):
    driver = drive(tiny, encode_batch=2)
    for number, scale in enumerate((5.0, 1.0, 5.0)):
        driver.order(f"job{number}", steps=1, seed=number, guidance_scale=scale)
    driver.wish([LatentId(f"job{number}", 0) for number in range(3)])
    driver.finish()
    samples = [(sample.lane, sample.batch, sample.evaluations) for sample in driver.outbox.samples]
    assert samples == [
        ("encode", 2, 0),
        ("step", 3, 2),
        ("decode", 2, 0),
        ("encode", 1, 0),
        ("step", 2, 1),
        ("decode", 1, 0),
    ]
