# SPDX-License-Identifier: Apache-2.0
"""Who is slow: a rank that is planted to be slow in computing, or in reading, is named with its reason, and those that wait for
it are not. And a trace of chosen steps is what Perfetto wants, with all ranks on one clock."""
import collections
import json
import os
import pathlib
import re
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import runs

KEYS = {
    "data.files": ["text.txt"], "model.n_layers": 2, "model.n_heads": 2, "model.dim": 32,
    "training.steps": 8, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "metrics.log_every": 4, "metrics.evaluate_every": 4, "checkpoint.interval": 4,
}
KINDS = ["computing", "communication", "input", "saving", "evaluation"]


def planted(rank, where, words, ranks):
    """In step 3 the rank sleeps for 1.6 s: 200 ms a step. The report's lines."""
    out = runs.train("gpt.toml", "--plant", f"{rank} 3 {where} sleep:1.6", *words, ranks=ranks).out
    return [line for line in out.splitlines() if line.startswith(("a step, mean of", "slow: "))]


def check_slow_ranks():
    mean, *slow = planted(2, "reading", ["run.folder=reads", "parallelism.tensor_parallel_degree=2"], 4)
    assert re.match(r"a step, mean of 4 ranks: computing [\d.]+ ms, waiting for data [\d.]+ ms \([\d.e-]+ %\), copying them [\d.]+ ms, .*communication [\d.]+ ms \(all ranks ", mean), mean
    assert ", data " in mean and ", tensor " in mean, mean
    found = re.match(r"slow: rank 2 on \S+: ([\d.]+) of ([\d.]+) ms of a step in input, the others like it ([\d.]+) ms", slow[0])
    assert found and 200 <= float(found[1]) <= float(found[2]) and float(found[3]) < 100, slow
    mean, *slow = planted(1, "computing", ["run.folder=computes"], 2)
    assert re.match(r"slow: rank 1 on \S+: 2\d\d\.\d of [\d.]+ ms of a step computing, the others like it ", slow[0]), slow
    assert not any(line.startswith("slow: rank 0") for line in slow), slow


def check_times():
    """Every second of a rank is under one name; the victims wait in communication."""
    records = [record for record in runs.metrics("reads", "step") if "times" in record]
    assert [record["step"] for record in records] == [1, 4, 8] and [record["times"]["steps"] for record in records] == [1, 3, 4]
    times = records[1]["times"]  # steps 2 to 4
    assert list(times["ranks"]) == KINDS and all(len(times["ranks"][kind]) == 4 for kind in KINDS)
    of = {kind: [float(number) for number in times["ranks"][kind]] for kind in KINDS}
    for kind in KINDS:
        assert abs(sum(of[kind]) / 4 - float(times[kind])) <= 1e-6 + 1e-6 * float(times[kind]), kind
        assert abs(of[kind][2] - float(times["slowest"][kind])) < 1e-9, "rank 2 is the slowest"
    assert times["slowest"]["rank"] == 2 and of["input"][2] > 1.6 / 3, times
    for victim in (0, 1, 3):
        assert of["communication"][victim] > 1.5 / 3 > of["input"][victim], times
    totals = [sum(of[kind][rank] for kind in KINDS) for rank in range(4)]
    assert max(totals) - min(totals) < 0.2 * max(totals), totals
    axes = times["communication_by_axis"]
    assert list(axes) == ["all ranks", "data", "tensor"], axes
    assert abs(sum(map(float, axes.values())) - float(times["communication"])) < 1e-6 * sum(totals), times
    alone = runs.metrics("alone", "step")[-1]["times"]
    assert alone["communication_by_axis"] == {} and float(alone["communication"]) == 0, alone


def spans_of(path):
    """By rank and track, in the order of time; the form of every event is checked, and that spans of a track do not overlap."""
    with open(path, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    tracks, spans = {}, collections.defaultdict(list)
    for event in events:
        assert event["ph"] in "MX" and isinstance(event["pid"], int) and event["name"], event
        if event["ph"] == "M":
            if event["name"] == "thread_name":
                tracks[event["pid"], event["tid"]] = event["args"]["name"]
        else:
            assert event["dur"] >= 0 and isinstance(event["ts"], (int, float)) and isinstance(event["args"], dict), event
            spans[event["pid"], tracks[event["pid"], event["tid"]]].append(event)
    for of_track in spans.values():
        of_track.sort(key=lambda event: (event["ts"], event["dur"]))
        for before, after in zip(of_track, of_track[1:]):
            assert after["ts"] >= before["ts"] + before["dur"] - 0.0015, (before, after)  # numbers of three digits
    return spans


def check_trace():
    out = runs.train("gpt.toml", "--plant", "2 4 computing sleep:0.5", "run.folder=traced", "run.trace_steps=[3,5]", ranks=3,
                     extra={"OMPI_MCA_mpi_yield_when_idle": "1"}).out
    assert "traced: `tessera trace traced` makes one file of it" in out, out
    assert re.fullmatch(r"merged\.json: [\d,]+ events of 3 ranks; open it at https://ui\.perfetto\.dev\n",
                        runs.tessera("trace", "traced", "-o", "merged.json").out)
    runs.tessera("trace", "traced")
    assert pathlib.Path("traced/trace/trace.json").read_bytes() == pathlib.Path("merged.json").read_bytes()
    spans = spans_of("merged.json")
    error = max(float(json.loads(pathlib.Path(f"traced/trace/rank-{rank:04d}.jsonl").read_text().split("\n", 1)[0])["clock_error"])
                for rank in range(3)) * 1e6
    for rank in range(3):
        steps = spans[rank, "steps"]
        assert [step["name"] for step in steps] == ["step 3", "step 4", "step 5"], steps
        work = spans[rank, "operations"]
        assert work[0]["ts"] >= steps[0]["ts"] - 1 and work[-1]["ts"] + work[-1]["dur"] <= steps[-1]["ts"] + steps[-1]["dur"] + 1
        named = {event["name"]: event["args"] for event in work}
        assert named["layers.1.mlp.up"] == {"phase": "forward", "layer": 1}, named
        assert any(args.get("phase") == "backward" for args in named.values()) and "read data" in named, named
        assert [event["name"] for event in spans[rank, "activities"]].count("evaluating") == 1, spans[rank, "activities"]
        assert any(event["name"] == "saving" for event in spans[rank, "activities"])
        assert any(event["args"]["bytes"] > 4096 and event["args"]["axis"] == "data" for event in spans[rank, "communication: data"])
    # One clock: no rank comes out of a sum before the last one has come to it.
    sums = [[event for event in spans[rank, "communication: data"] if event["name"] == "all_reduce"] for rank in range(3)]
    assert len({len(of_rank) for of_rank in sums}) == 1 and len(sums[0]) >= 3, [len(of_rank) for of_rank in sums]
    for calls in zip(*sums):
        assert len({(call["args"]["bytes"], call["args"]["of"]) for call in calls}) == 1, calls
        begun, ended = max(call["ts"] for call in calls), min(call["ts"] + call["dur"] for call in calls)
        assert ended >= begun - 2 * error - 1, (calls, error)
    # What was planted is seen: one span of half a second on rank 2, while the others wait in a collective.
    assert max(event["dur"] for event in spans[2, "operations"]) >= 5e5
    for victim in (0, 1):
        assert max(event["dur"] for event in spans[victim, "communication: data"]) >= 4.5e5


def check_none():
    """Without the key nothing is recorded; and what is missing or broken is a sentence."""
    runs.train("gpt.toml", "run.folder=alone")
    assert not pathlib.Path("alone/trace").exists() and not pathlib.Path("reads/trace").exists()
    assert "alone/trace holds no trace: train with run.trace_steps=[FIRST,LAST]" in runs.tessera("trace", "alone", code=2).err
    pathlib.Path("traced/trace/rank-0001.jsonl").rename("kept")
    assert "of 3 ranks, but there are 2 files" in runs.tessera("trace", "traced", code=2).err
    pathlib.Path("traced/trace/rank-0001.jsonl").write_text(pathlib.Path("kept").read_text()[:-20])
    assert "the text is not JSON" in runs.tessera("trace", "traced", code=2).err
    for wrong in ("[3]", "[0,2]", "[3,2]"):
        assert "run.trace_steps" in runs.train("gpt.toml", f"run.trace_steps={wrong}", code=2).err


with runs.folder():
    runs.write_text("text.txt", 20_000)
    runs.write_config("gpt.toml", KEYS)
    check_slow_ranks()
    check_trace()
    check_none()
    check_times()
print("ok")
