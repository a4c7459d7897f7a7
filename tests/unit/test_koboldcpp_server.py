"""KoboldCPP's traps, one test each, on a fake that has them all (tests/fakes/koboldcpp.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from deployments.koboldcpp.client import KoboldClient, NotKobold
from deployments.koboldcpp.engine import KoboldEngine, Timeouts
from deployments.koboldcpp.switching import KoboldModel
from deployments.koboldcpp.templates import templates
from tessera.engine import CancelState, Chunk, Done, EngineJob, RunState, backend_id
from tessera.errors import BadOutput, Busy, EngineError, InvalidInput, Lost, ModelMissing, OutOfMemory, Stuck
from tests.conformance.cases import following, until
from tests.conformance.engine_suite import check_stream, collected, renewed
from tests.conformance.test_preview import job
from tests.fakes.koboldcpp import TOKEN, FakeKobold

MODEL = "text-tiny"
ASKED = job("text", model=MODEL, prompt="Hello", max_tokens=24, seed=3)


class Rig:
    """A fake server and engines on it."""

    def __init__(self) -> None:
        self.server = FakeKobold(token_s=0.001)
        self._engines: list[KoboldEngine] = []

    def engine(self, *models: KoboldModel, password: str = "", **options: Any) -> KoboldEngine:
        client = KoboldClient(self.server.url, password=password)
        options.setdefault("timeouts", Timeouts(queue_s=2, prompt_s=2, token_s=5))
        engine = KoboldEngine(
            client, models or [KoboldModel(id=MODEL, template=templates()["chatml"])], load_timeout_s=10, **options
        )
        self._engines.append(engine)
        return engine

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()
        await self.server.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    await made.server.start()
    yield made
    await made.close()


async def answer(engine: KoboldEngine, **given: Any) -> dict[str, Any]:
    asked = job("text", model=MODEL, **{"prompt": "Hello", "max_tokens": 64, "seed": 3, **given})
    events = await collected(engine, asked)
    check_stream(events)
    done = events[-1]
    assert isinstance(done, Done)
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == done.output["text"]
    assert done.cost_units == done.output["usage"]["total_tokens"]
    return dict(done.output)


def holds(condition: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return bool(condition())

    return check


async def test_text_and_counts_come_from_the_server(rig: Rig) -> None:
    output = await answer(rig.engine())
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    run = rig.server.runs[-1]
    assert output["text"] == run.text and run.prompt == prompt
    assert output["usage"]["prompt_tokens"] == 1 + len(TOKEN.findall(prompt))
    assert output["usage"]["completion_tokens"] == run.tokens
    assert output["finish_reason"] == "stop"
    assert output["engine"] == "koboldcpp"


async def test_an_old_version_that_sends_no_count_is_asked_for_it(rig: Rig) -> None:
    rig.server.usage, rig.server.word_null = False, True
    output = await answer(rig.engine())
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert output["usage"]["prompt_tokens"] == 1 + len(TOKEN.findall(prompt))
    assert output["usage"]["completion_tokens"] == rig.server.runs[-1].tokens


async def test_an_old_version_that_dies_after_its_last_word_has_lost_the_run(rig: Rig) -> None:
    rig.server.usage = False
    engine = rig.engine()
    rig.server.dies_at_the_end = True
    with pytest.raises(Lost, match="how much it wrote"):
        await answer(engine)


async def test_the_same_seed_gives_the_same_text_and_sampling_is_passed_on(rig: Rig) -> None:
    sampling = {"min_p": 0.05, "rep_pen": 1.1}
    engine = rig.engine(KoboldModel(id=MODEL, template=templates()["none"], sampling=sampling))
    first = await answer(engine, seed=2**40, temperature=0.3, top_p=0.8)
    second = await answer(engine, seed=2**40, temperature=0.3, top_p=0.8)
    assert first["text"] == second["text"]
    assert (await answer(engine, seed=5))["text"] != first["text"]
    body = rig.server.bodies[0]
    assert (body["temperature"], body["top_p"], body["min_p"], body["rep_pen"]) == (0.3, 0.8, 0.05, 1.1)
    assert 0 < body["seed"] < 2**31
    await answer(engine, temperature=0)
    assert rig.server.bodies[-1]["temperature"] == 0


async def test_a_stop_sequence_over_several_tokens_ends_the_text_before_it_as_stop(rig: Rig) -> None:
    rig.server.script = ["Yes", ".", "\n", "Us", "er", ":", " more", " and more"]
    output = await answer(rig.engine(), stop=["\nUser:"])
    assert (output["text"], output["finish_reason"]) == ("Yes.", "stop")


async def test_a_stop_sequence_that_the_server_has_cut_off_is_known_from_its_counters(rig: Rig) -> None:
    rig.server.script, rig.server.always_trims = ["Yes", ".", "\n", "Us", "er", ":", " more"], True
    output = await answer(rig.engine(), stop=["\nUser:"])
    assert (output["text"], output["finish_reason"]) == ("Yes.", "stop")


async def test_a_server_that_does_not_see_the_stop_sequence_is_stopped(rig: Rig) -> None:
    rig.server.script = ["Yes", "END", *["on "] * 10_000]
    rig.server.ignore_stops = True
    output = await answer(rig.engine(), stop=["END"], max_tokens=8000)
    assert (output["text"], output["finish_reason"]) == ("Yes", "stop")
    assert rig.server.aborts and set(rig.server.aborts) == {rig.server.runs[-1].key}


async def test_as_many_tokens_as_allowed_is_length(rig: Rig) -> None:
    rig.server.endless = True
    output = await answer(rig.engine(), max_tokens=10)
    assert output["finish_reason"] == "length"
    assert output["usage"]["completion_tokens"] == 10


async def test_characters_split_over_tokens_and_packets_arrive_whole(rig: Rig) -> None:
    text = "Grüße, 世界 🌊!"
    rig.server.byte_tokens = [bytes([byte]) for byte in text.encode()]
    assert (await answer(rig.engine()))["text"] == text


async def test_what_cannot_be_stored_is_left_out_of_a_text(rig: Rig) -> None:
    rig.server.script = ["a\x00", "\x00", "b"]
    assert (await answer(rig.engine()))["text"] == "ab"


async def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers_and_never_sent(rig: Rig) -> None:
    rig.server.context = 100
    with pytest.raises(InvalidInput, match=r"\d+ text tokens of prompt and 90 to generate are \d+, and 100 fit"):
        await answer(rig.engine(), prompt="word " * 30, max_tokens=90)
    assert rig.server.bodies == []


async def test_a_stream_that_ends_without_saying_how_is_lost(rig: Rig) -> None:
    rig.server.end_after = 4
    with pytest.raises(Lost):
        await answer(rig.engine())


@pytest.mark.parametrize(
    ("knob", "expected"),
    [
        ({"null_body": True}, BadOutput),
        ({"fail_runs": 1}, OutOfMemory),
        ({"drop_connection": True}, Lost),
        ({"endless": True, "token_s": 60.0}, Stuck),
        ({"script": []}, None),
    ],
)
async def test_a_silent_200_is_never_an_answer(rig: Rig, knob: dict[str, Any], expected: type[EngineError]) -> None:
    for name, value in knob.items():
        setattr(rig.server, name, value)
    engine = rig.engine(timeouts=Timeouts(queue_s=0.2, prompt_s=0.2, token_s=0.2))
    if expected is None:  # the model's own end mark as its first token is an answer without words
        assert (await answer(engine))["text"] == ""
        return
    with pytest.raises(expected):
        await answer(engine)
    await until(holds(lambda: not engine._going))


async def test_a_model_that_was_unloaded_behind_our_back_is_not_out_of_memory(rig: Rig) -> None:
    engine = rig.engine()
    rig.server.model = None
    with pytest.raises(EngineError, match="no model loaded") as refusal:
        await answer(engine)
    assert refusal.value.retryable and not isinstance(refusal.value, ModelMissing | OutOfMemory)


async def test_a_run_that_somebody_else_stopped_is_lost_and_not_done(rig: Rig) -> None:
    rig.server.endless = True
    engine = rig.engine()
    async with following(engine, renewed(ASKED)) as run:
        await until(holds(lambda: rig.server.runs and rig.server.runs[-1].tokens > 2))
        rig.server.runs[-1].aborted = True  # by an abort without a key, from another program
        await run.ended()
        assert isinstance(run.error, Lost) and not run.done


async def test_a_cancel_aborts_its_own_run_by_its_key_and_frees_the_slot(rig: Rig) -> None:
    rig.server.endless = True
    engine = rig.engine()
    asked = job("text", model=MODEL, prompt="Hello", max_tokens=8000)
    async with following(engine, asked) as run:
        await until(holds(lambda: rig.server.runs and rig.server.runs[-1].tokens > 2))
        assert await engine.cancel(asked.id, 1) is CancelState.CANCELLED
        await run.ended()
        assert run.error is None and not run.done
    await until(holds(lambda: not engine._going))
    assert set(rig.server.aborts) == {backend_id(asked.id, 1)}
    assert rig.server.runs[-1].aborted


async def test_the_slot_stays_taken_until_a_deaf_server_lets_go(rig: Rig) -> None:
    rig.server.endless = rig.server.deaf = True
    engine = rig.engine()
    asked = job("text", model=MODEL, prompt="Hello", max_tokens=8000)
    async with following(engine, asked) as run:
        await until(holds(lambda: rig.server.runs and rig.server.runs[-1].tokens > 2))
        await engine.cancel(asked.id, 1)
        await run.ended()
    assert (await engine.capacity()).running == 1
    with pytest.raises(Busy):
        await answer(engine)
    rig.server.deaf = False
    await until(holds(lambda: not engine._going))


async def test_a_run_that_waits_behind_another_programs_is_cancelled_without_touching_it(rig: Rig) -> None:
    rig.server.endless = True
    strangers = KoboldClient(rig.server.url)
    stream = strangers.stream({"prompt": "mine", "max_tokens": 8000, "genkey": "stranger"})
    try:
        await anext(stream)
        engine = rig.engine(timeouts=Timeouts(queue_s=20, prompt_s=2, token_s=5))
        asked = renewed(ASKED)
        async with following(engine, asked) as run:
            await until(holds(lambda: rig.server._queued))
            assert await engine.cancel(asked.id, 1) is CancelState.CANCELLED
            await run.ended()
            assert run.error is None and not run.done
        assert not rig.server.runs[0].aborted
        assert (await anext(stream)).text
    finally:
        await stream.aclose()
        await strangers.close()


async def test_a_full_queue_is_busy(rig: Rig) -> None:
    rig.server.endless, rig.server.multiuser = True, 1
    strangers = KoboldClient(rig.server.url)
    stream = strangers.stream({"prompt": "mine", "max_tokens": 8000, "genkey": "stranger"})
    try:
        await anext(stream)
        with pytest.raises(Busy):
            await answer(rig.engine())
    finally:
        await stream.aclose()
        await strangers.close()


async def test_no_abort_and_no_check_is_ever_sent_without_a_key(rig: Rig) -> None:
    client = KoboldClient(rig.server.url)
    for call in (client.abort, client.check):
        with pytest.raises(ValueError, match="key"):
            await call("")
    assert rig.server.aborts == []
    await client.close()


async def test_every_run_is_streamed_for_another_goes_on_without_its_reader(rig: Rig) -> None:
    rig.server.endless = True
    # What the engine never does: a run that is not streamed is written to its end, whoever has left.
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.1)) as session:
        with pytest.raises(TimeoutError):
            await session.post(f"{rig.server.url}/v1/completions", json={"prompt": "x", "max_tokens": 400})
    abandoned = rig.server.runs[-1]
    begun = abandoned.tokens
    await until(holds(lambda: abandoned.tokens > begun + 50))
    rig.server.endless = False
    await until(holds(lambda: abandoned.ended))
    await answer(rig.engine())
    assert all(body["stream"] is True for body in rig.server.bodies[1:]) and len(rig.server.bodies) > 1


async def test_a_new_process_ends_what_the_lost_one_left_before_it_calls_it_lost(rig: Rig) -> None:
    rig.server.endless = True
    asked = job("text", model=MODEL, prompt="Hello", max_tokens=8000)
    stranger = KoboldClient(rig.server.url)
    stream = stranger.stream({"prompt": "x", "max_tokens": 8000, "genkey": backend_id(asked.id, 1)})
    await anext(stream)
    assert await stranger.check(backend_id(asked.id, 1)) != ""
    assert await rig.engine().reconcile(asked.id, 1) is RunState.LOST
    assert rig.server.runs[-1].aborted and (await stranger.perf()).idle
    await stream.aclose()
    await stranger.close()


async def test_a_server_that_is_away_keeps_the_job_waiting(rig: Rig) -> None:
    engine = rig.engine()
    await rig.server.kill()
    with pytest.raises(Busy):
        await answer(engine)
    assert not (await engine.probe()).ok
    with pytest.raises(EngineError):
        await engine.reconcile(ASKED.id, 1)  # nobody knows: to call it lost would run it twice
    await rig.server.start()
    await answer(engine)


async def test_a_comfyui_is_not_taken_for_it_and_its_imitation_not_for_a_comfyui(rig: Rig) -> None:
    client = KoboldClient(rig.server.url)
    assert (await client.version()).version == "1.115.1"
    await client.close()
    rig.server.garbage = True
    health = await rig.engine().probe()
    assert not health.ok and "KoboldCPP" in health.message


async def test_a_password_that_is_missing_is_told(rig: Rig) -> None:
    rig.server.password = "sesame"
    health = await rig.engine().probe()
    assert not health.ok and "password" in health.message
    assert (await rig.engine(password="sesame").probe()).ok


# ------------------------------------------------------------------ switching


def two(rig: Rig, **options: Any) -> KoboldEngine:
    chatml = templates()["chatml"]
    rig.server.model, rig.server.options = "first", ["first.gguf", "second.kcpps"]
    return rig.engine(
        KoboldModel(id="text-first", template=chatml, file="first.gguf"),
        KoboldModel(id="text-second", template=chatml, file="second.kcpps", name="second"),
        **options,
    )


async def test_another_model_is_loaded_and_known_by_its_name_when_the_server_is_back(rig: Rig) -> None:
    engine = two(rig)
    assert (await engine.models()).resident == ("text-first",)
    with pytest.raises(EngineError, match="text-second is not loaded"):
        await collected(engine, job("text", model="text-second", prompt="Hello"))
    await engine.ensure("text-second")
    assert (await engine.models()).resident == ("text-second",)
    check_stream(await collected(engine, job("text", model="text-second", prompt="Hello")))
    await engine.release(["text-first"])  # it is not loaded
    assert rig.server.model == "second"
    await engine.release()
    assert rig.server.model is None
    assert (await engine.models()).resident == ()
    await engine.ensure("text-first")
    assert (await engine.models()).switch_s["text-first"] < 30


async def test_while_a_model_is_loaded_nothing_begins_and_the_engine_is_well(rig: Rig) -> None:
    rig.server.load_s = 0.6
    engine = two(rig)
    loading = asyncio.create_task(engine.ensure("text-second"))
    await until(holds(lambda: rig.server._runner is None))
    assert (await engine.probe()).ok
    with pytest.raises(Busy):
        await collected(engine, job("text", model="text-first", prompt="Hello"))
    with pytest.raises(Busy):
        await engine.ensure("text-first")
    await loading
    assert (await engine.models()).resident == ("text-second",)


async def test_a_switch_waits_for_another_programs_run_instead_of_cutting_it(rig: Rig) -> None:
    rig.server.endless = True
    engine = two(rig)
    stranger = KoboldClient(rig.server.url)
    stream = stranger.stream({"prompt": "mine", "max_tokens": 8000, "genkey": "stranger"})
    await anext(stream)
    loading = asyncio.create_task(engine.ensure("text-second"))
    await asyncio.sleep(0.3)
    assert rig.server.model == "first" and not loading.done()
    await stranger.abort("stranger")
    async for _ in stream:
        pass
    await loading
    assert rig.server.model == "second"
    await stranger.close()


async def test_a_load_that_failed_is_told_and_not_taken_for_the_model(rig: Rig) -> None:
    engine = two(rig)
    rig.server.broken_options = {"second.kcpps"}
    with pytest.raises(EngineError, match="without a model instead of text-second"):
        await engine.ensure("text-second")
    await engine.ensure("text-first")
    rig.server.refuse_reload = True
    with pytest.raises(EngineError, match="--admin"):
        await engine.release()


async def test_a_model_whose_file_is_not_there_is_missing_by_name(rig: Rig) -> None:
    engine = two(rig)
    rig.server.options = ["first.gguf"]
    with pytest.raises(ModelMissing, match=r"second\.kcpps.*it has first\.gguf"):
        await engine.ensure("text-second")


async def test_a_server_that_cannot_switch_serves_what_it_was_started_with(rig: Rig) -> None:
    engine = rig.engine()
    assert (await engine.models()).resident == (MODEL,)
    await engine.ensure(MODEL)
    with pytest.raises(EngineError, match="--admin"):
        await engine.release()
    named = rig.engine(KoboldModel(id=MODEL, template=templates()["none"], name="other"))
    assert (await named.models()).resident == ()
    with pytest.raises(ModelMissing, match="tiny-llama"):
        await named.ensure(MODEL)


async def test_two_engines_do_not_share_a_run(rig: Rig) -> None:
    first, second = rig.engine(), rig.engine()
    asked: EngineJob = renewed(ASKED)
    await asyncio.gather(collected(first, asked), collected(second, asked, attempt=2))
    assert len({run.key for run in rig.server.runs}) == 2


async def test_an_answer_of_another_shape_is_told_as_such(rig: Rig) -> None:
    client = KoboldClient(rig.server.url)
    rig.server.garbage = True
    for call in (client.version, client.model, client.perf, client.context_tokens, client.options):
        with pytest.raises(NotKobold):
            await call()
    await client.close()


async def test_models_whose_files_are_not_there_are_not_available_and_the_doctor_tries_the_loaded_one(rig: Rig) -> None:
    engine = two(rig)
    rig.server.options = ["first.gguf"]
    assert (await engine.models()).available == ("text-first",)
    assert "text-first wrote" in await engine.self_test()
    rig.server.model = None
    assert "none was tried" in await engine.self_test()
