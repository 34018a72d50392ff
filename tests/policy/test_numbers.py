"""The numbers of the README are those of benchmarks/results."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.policy.source import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def result(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))["result"]


def embedded(field: str) -> list[float]:
    return [result("embedded")[f"translate_dates_{pair}"][field] for pair in ("ende", "enfr")]


def speed(decode: Any, decoder: str, size: str) -> float:
    """Target tokens per second of transformer_base in batches of so many sentences."""
    median: float = decode["base"]["decoders"][decoder]["groups"][size]["tokens_per_second"]["median"]
    return median


def at_best(decode: Any, *decoders: str) -> list[float]:
    """The best of these decoders with one or two threads, in batches of 1, 16 and 64."""
    return [
        max(speed(decode, f"{one}, {threads}", size) for one in decoders for threads in ("1 thread", "2 threads"))
        for size in ("1", "16", "64")
    ]


def over(decode: Any, ours: str, theirs: str) -> list[float]:
    return [own / other for own, other in zip(at_best(decode, ours), at_best(decode, theirs), strict=True)]


def quoted() -> list[str]:
    """Every result as the README writes it."""
    run, allocator = result("multi30k"), result("allocator")
    german, french = embedded("test_bleu")
    minutes = embedded("training_minutes")
    assert allocator["float32"]["speedup"] == allocator["bfloat16"]["speedup"]
    averaged, best = (run["evaluate"][checkpoint] for checkpoint in ("averaged", "best"))
    steps = [result("train_engines")["sizes"][size]["ratios"] for size in ("tiny", "small", "base")]
    building = result("train_engines")["sizes"]["base"]["variants"]["ort"]
    compared = result("serving")["compare"]
    served, overload, large = compared["summary"], *(result("serving")[f"overload{of}"] for of in ("", "_large"))
    spinning = result("spinning")
    return [
        *decoding(),
        *decoding_with_amx(),
        *padding(),
        *training_with_amx(),
        "| {:.2f} / {:.2f} / {:.2f} times as fast |".format(*(of["ort_over_torch"] for of in steps)),
        "| {:.2f} / {:.2f} times as fast |".format(*(of["ort_over_compile"] for of in steps[1:])),
        "| {:.2f} / {:.2f} / {:.2f} of torch's |".format(*(of["memory_ratio"] for of in steps)),
        "| {:.1f} / {:.2f} s |".format(*(building[state]["graph_s"] for state in ("cold", "cached"))),
        f"| {run['served_test_bleu']:.2f}, as `evaluate` says |",
        f"| {run['training_minutes']:.0f} minutes |",
        f"| {german:.1f} / {french:.1f} |",
        f"| {minutes[0]:.1f} / {minutes[1]:.1f} minutes |",
        f"| {allocator['float32']['speedup']} times as fast |",
        f"({best['dev']['bleu']:.2f} BLEU for the best single one, {averaged['dev']['bleu']:.2f} for the average",
        f"many papers report: {run['evaluate'][run['deployed_checkpoint']]['test']['lowercase_bleu']:.1f}.",
        f"| {run['epoch_seconds']['ort']:.0f} / {run['epoch_seconds']['torch']:.0f} s |",
        f"| {result('batching')['target_tokens_per_second'] / 1e6:.1f} million |",
        f"| {result('startup')['help_median_s']:.3f} s |",
        "| {:.1f} / {:.1f} s |".format(*(result("exporting")[f"{name}_seconds"] for name in ("first", "later"))),
        "| {} / {} / {} / {} times as fast |".format(
            *(f"{one['speedup']:.2f}" for one in result("leaving_rows")["batch_sizes"].values())
        ),
        *(
            "| {} / {} / {} times as fast |".format(
                *(f"{one['speed_over_asleep'][str(spinning['default_spin_us'])]:.2f}" for one in of.values())
            )
            for of in (spinning["beside_0_busy_processes"], spinning["beside_1_busy_processes"])
        ),
        *short(),
        *served_classes(),
        "| {throughput_over_bare:.2f} / {throughput_over_naive:.2f} / {throughput_over_other:.2f} |".format(**served),
        f"| {served['p50_minus_bare_ms']:.1f} ms |",
        f"| {compared['ratios']['64']['bare, a loop per CPU']:.2f} | | |",
        f"times the {overload['capacity']:.0f} sentences per second that it can do, by a load generator on the same "
        "two CPUs: what it answers in time over that | {:.2f} / {:.2f} / {:.2f} | 0.9 | |".format(
            *(load["goodput_over_peak"] for load in overload["loads"])
        ),
        f"short, {large['capacity']:.0f} sentences per second | {{:.2f}} / {{:.2f}} / {{:.2f}} | 0.9 | |".format(
            *(load["goodput_over_peak"] for load in large["loads"])
        ),
        "| {} / {} times as fast | | `make bench-batches` |".format(
            *(f"{one['ratio']:.2f}" for one in result("batches_at_once")["batches"].values())
        ),
    ]


def training_with_amx() -> list[str]:
    tiny, small, base = (result("train_engines_amx")["sizes"][size]["ratios"] for size in ("tiny", "small", "base"))
    return [
        "against torch eager | {:.2f} / {:.2f} / {:.2f} times as fast |".format(
            *(of["ort_over_torch"] for of in (tiny, small, base))
        ),
        "| {:.2f} / {:.2f} times as fast; {:.2f} / {:.2f} / {:.2f} |".format(
            *(of["ort_over_compile"] for of in (small, base)), *(of["memory_ratio"] for of in (tiny, small, base))
        ),
    ]


def short() -> list[str]:
    found = result("shortlist")
    trained, base = found["trained"], found["base"]["threads"]
    gains = "{:.2f} / {:.2f} / {:.2f}".format(*(of["gain"] for of in trained["batch_sizes"].values()))
    of_float32 = trained["as_float32"]["t2tdeploy int8, 2 threads"]["tokens_in_order"]
    return [
        f"| {base['1']['gain']:.2f} / {base['2']['gain']:.2f} times as fast |",
        f"| {gains} times as fast; {trained['bleu']['t2tdeploy, shortlist int8, 2 threads']:.2f} |",
        f"| {100 * of_float32:.1f} % | 97 % |",
    ]


def decoding() -> list[str]:
    decode = result("decode_vs_ctranslate2")
    ratios, trained = decode["base"]["ratios"]["2"], decode["trained"]
    sizes = decode["base"]["file_mib"]
    others = at_best(decode, "transformers float32", "optimum float32")
    bleu = [
        trained["bleu"][f"{name}, 2 threads"] for name in ("t2tdeploy float32", "t2tdeploy int8", "ctranslate2 int8")
    ]
    return [
        *(
            "| {:.2f} / {:.2f} / {:.2f} times as many |".format(
                *(ratios[of][size]["median"] for size in ("1", "16", "64"))
            )
            for of in ("int8", "float32")
        ),
        *(
            "| {:.2f} / {:.2f} / {:.2f} times as many |".format(*over(decode, f"t2tdeploy {of}", f"ctranslate2 {of}"))
            for of in ("int8", "float32")
        ),
        "| {:.2f} / {:.2f} / {:.2f} and {:.2f} / {:.2f} / {:.2f} times as many |".format(
            *(
                own / other
                for of in ("int8", "float32")
                for own, other in zip(at_best(decode, f"t2tdeploy {of}"), others, strict=True)
            )
        ),
        "with one thread each, ours has {:.2f} / {:.2f} / {:.2f} of its tokens per second in int8".format(
            *(decode["base"]["ratios"]["1"]["int8"][size]["median"] for size in ("1", "16", "64"))
        ),
        "(there {:.0f} against {:.0f} and {:.0f} against {:.0f} tokens per second)".format(
            *(
                speed(one, f"ctranslate2 int8, {threads}", "1")
                for one in (decode, result("decode_vs_ctranslate2_amx"))
                for threads in ("2 threads", "1 thread")
            )
        ),
        "| {:.2f} / {:.2f} times as many |".format(*(of["test"]["median"] for of in trained["ratios"].values())),
        "| {:.2f} / {:.2f} / {:.2f} |".format(*bleu),
        f"| {100 * sizes['t2tdeploy int8'] / sizes['t2tdeploy float32']:.0f} % of float32 |",
        *memory_and_loading(decode["base"]["decoders"]),
    ]


def decoding_with_amx() -> list[str]:
    ratios = result("decode_vs_ctranslate2_amx")["base"]["ratios"]
    int8, float32, alone = (
        " / ".join(f"{ratios[threads][of][size]['median']:.2f}" for size in ("1", "16", "64"))
        for threads, of in (("2", "int8"), ("2", "float32"), ("1", "int8"))
    )
    return [
        f"on a Xeon with AMX: int8 | {int8} times as many |",
        f"| the same there in float32 | {float32} times as many |",
        f"in int8, with AMX\n{alone}.",
    ]


def padding() -> list[str]:
    found = result("padding")
    ratios = " / ".join(f"{one['ratio']:.2f}" for one in found["sizes"].values())
    return [f"{100 * found['padding_share']:.0f} % of all positions, against", f"| {ratios} times as fast |"]


def memory_and_loading(decoders: Any) -> list[str]:
    both = [[decoders[f"{who} {of}, 2 threads"] for who in ("t2tdeploy", "ctranslate2")] for of in ("int8", "float32")]
    over = " / ".join(f"{ours['peak_mib'] / theirs['peak_mib']:.2f}" for ours, theirs in both)
    loads = " / ".join(f"{ours['load_s']:.2f}" for ours, _ in both)
    return [f"| {over} | 1.2 | |", f"| {loads} s | 1 s | |"]


def served_classes() -> list[str]:
    rows = {name: one for name, one in result("classify").items() if name != "large"}
    seconds = {name: f"{one['training_seconds']:.0f}" for name, one in rows.items()}
    seconds["iris"] = str(rows["iris"]["estimator"]["training_seconds"])
    over = {
        size: " / ".join(f"{one['served_over_bare'][size]:.2f}" for one in rows.values())
        for size in ("1 per request", "64 per request")
    }
    large = result("classify")["large"]["served_over_bare"]["1 per request"]
    return [
        *(f"| {100 * one['served']:.1f} %; {seconds[name]} s |" for name, one in rows.items()),
        f"SST-2, an example a request | {over['1 per request']} | 0.95 | |",
        f"| the same, 64 examples a request | {over['64 per request']} | 0.95 | |",
        f"as transformer_base's, an example a request | {large:.2f} | 0.95 | |",
    ]


def test_the_page_on_texts_quotes_the_committed_accuracy() -> None:
    page = (ROOT / "docs" / "classify-your-text.md").read_text(encoding="utf-8")
    found = result("classify")["sst2"]
    assert f"`{found['model']}` reaches {100 * found['test_accuracy']:.1f} % on test" in page


def test_the_page_on_the_training_graph_quotes_what_leaving_padding_out_brings() -> None:
    page = (ROOT / "docs" / "training-graph.md").read_text(encoding="utf-8")
    found = result("padding")
    share, ratio = 100 * found["padding_share"], found["sizes"]["tiny"]["ratio"]
    said = f"Where {share:.0f} % of the positions are pads, a step of transformer_tiny is {ratio:.2f} times as fast"
    assert said in " ".join(page.split())


def test_the_architecture_quotes_what_the_past_apart_gives() -> None:
    page = " ".join((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split())
    large, small = (result("past_apart")["sizes"][f"transformer_{size}"] for size in ("base", "multi30k"))

    def saved(of: Any, kind: str) -> tuple[int, int]:
        """MiB and per cent, of memory."""
        peak = of["2"][kind]["peak_mib"]
        return peak["whole"] - peak["apart"], round(100 * (1 - peak["apart"] / peak["whole"]))

    def speed(of: Any, threads: int) -> list[str]:
        return [
            " / ".join(f"{one:.2f}" for one in of[str(threads)][kind]["speedup"].values())
            for kind in ("float32", "int8")
        ]

    exact, rounded = (saved(large, kind) for kind in ("float32", "int8"))
    assert f"takes {exact[1]} % less memory so, {rounded[1]} % less in 8 bits" in page
    assert "{} times as fast with two threads, {} in 8 bits;".format(*speed(large, 2)) in page
    assert "with one thread {} and {} (".format(*speed(large, 1)) in page
    assert f"{saved(small, 'float32')[0]} MiB would be saved instead of {exact[0]}, at " in page
    assert "at {} of the speed, {} in 8 bits.".format(*speed(small, 2)) in page


def test_hostile_clients_left_nothing() -> None:
    fuzz, kills = result("serving")["fuzz"], result("serving")["kills"]
    sent = sum(of["requests"] for of in fuzz["services"].values())
    assert (fuzz["passed"], fuzz["not_of_the_table"], fuzz["tracebacks_in_log"]) == (True, {}, 0)
    assert (kills["passed"], kills["connections_left"], kills["unfinished"]) == (True, 0, 0)
    assert f"| {sent:,} requests with bytes changed".replace(",", " ") in README
    assert [*fuzz["services"]] == ["t2tdeploy.serving.v1.TranslationService", "inference.GRPCInferenceService", "http"]
    assert f"{kills['killed_mid_request']} clients killed amid theirs" in README


def test_an_hour_left_memory_as_it_was() -> None:
    soak = result("serving")["soak"]
    assert (soak["passed"], soak["seconds"], soak["unfinished"], [*soak["statuses"]]) == (True, 3600, 0, ["OK"])
    requests = f"{soak['requests']:,}".replace(",", " ")
    memory = " / ".join(f"{size:.0f}" for size in soak["memory_mib"])
    assert f"| {requests}, all OK, {soak['latency']['p99_ms']:.0f} ms; {memory} MiB | flat |" in README


def test_the_page_on_images_quotes_both_engines() -> None:
    page = " ".join((ROOT / "docs" / "images.md").read_text(encoding="utf-8").split())
    cases = result("class_engines")["cases"]
    ratios = {name: f"{cases[name]['ort_over_torch']:.2f}" for name in ("resnet_digits", "resnet", "encoder")}
    assert f"`resnet_digits` through onnxruntime has {ratios['resnet_digits']} of its speed" in page
    assert f"`resnet_cifar_32` {ratios['resnet']}, while an encoder of texts has {ratios['encoder']}." in page
    memory = cases["revnet"]
    assert f"took {memory['reversible']['mib']} MiB, and {memory['ordinary']['mib']} MiB with" in page


@pytest.mark.parametrize("index", range(44))
def test_a_number_is_the_committed_one(index: int) -> None:
    assert quoted()[index] in README


def test_the_real_run_met_its_goal_and_served_what_it_evaluated() -> None:
    assert result("multi30k")["goal_met"]
    assert result("multi30k")["served_equals_evaluate"]


def test_the_page_on_training_graphs_quotes_the_gpu_run() -> None:
    page = (ROOT / "docs" / "training-graph.md").read_text(encoding="utf-8")
    content = json.loads((ROOT / "benchmarks/gpu/results/gpu.json").read_text(encoding="utf-8"))
    rates: dict[int, dict[str, int]] = {}
    for row in content["sections"]["engines, base"]["rows"]:
        if row["precision"] == "bfloat16" and "tokens_per_second" in row:
            rates.setdefault(row["batch_size"], {})[row["engine"]] = row["tokens_per_second"]
    assert len(rates) == 4
    for tokens, of in rates.items():
        assert f"| {tokens} | {of['ort']:,} | {of['torch']:,} |".replace(",", " ") in page


def test_the_page_on_scale_quotes_the_cost_of_communication() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for model in ("transformer_tiny", "transformer_small"):
        found = result("communication")[model]
        threads, processes = found["1 process, 2 threads"], found["2 processes, 1 thread"]
        rates = f"{threads['tokens_per_second']} | {processes['tokens_per_second']}"
        assert f"| {model} | {rates} | {100 * processes['communication_share']:.1f} % |" in page


def test_the_page_on_variants_quotes_the_shortlists() -> None:
    page = (ROOT / "docs" / "optimize.md").read_text(encoding="utf-8")
    found = result("shortlist")
    trained, base = found["trained"], found["base"]
    names = ("t2tdeploy float32", "t2tdeploy int8", "t2tdeploy, shortlist int8")
    bleu = [trained["bleu"][f"{name}, 2 threads"] for name in names]
    tokens = trained["as_float32"]["t2tdeploy, shortlist int8, 2 threads"]["tokens_in_order"]
    assert "{:.2f} in float32, {:.2f} in 8 bits, {:.2f} with the shortlist, which".format(*bleu) in page
    assert f"gives {100 * tokens:.1f} % of the tokens" in page
    assert f"{base['ids_open']} of {base['vocabulary']} tokens allowed" in page
    for count in trained["ids_open"].values():
        assert f" {count} " in page
    for of in (*base["threads"].values(), *trained["batch_sizes"].values()):
        assert "| {} | {} | {} | {} |".format(*of["tokens_per_second"].values()) in page


def test_the_pages_on_variants_and_tensorrt_quote_the_gpu_run() -> None:
    content = json.loads((ROOT / "benchmarks/gpu/results/gpu.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "optimize.md").read_text(encoding="utf-8")
    rows = content["sections"]["bundle"]["rows"]
    rates: dict[str, list[float]] = {}
    for row in rows:
        if (size := row.get("batch_size")) in (1, 16, 64):
            rates.setdefault(f"batch of {size}", []).append(row["sentences_per_second"])
        elif (callers := row.get("callers")) in (64, 256):
            rates.setdefault(f"server, {callers} callers of a sentence each", []).append(row["sentences_per_second"])
    assert len(rates) == 5
    for what, (cpu, gpu) in rates.items():
        assert f"| {what} | {cpu} | {gpu} |" in page
    (found,) = (row for row in rows if row["what"] == "translations" and row["variant"] == "cuda-fp16")
    assert f"{found['identical']} of the {found['sentences']}" in page
    page = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    speeds: dict[int, list[float]] = {}
    for row in content["sections"]["TensorRT"]["rows"]:
        if "tokens_per_second" in row:
            speeds.setdefault(row["batch_size"], []).append(row["tokens_per_second"])
    for size, (cuda32, cuda16, other32, other16) in speeds.items():
        assert f"| {size} | {cuda32} | {cuda16} | {other32} | {other16} |" in page


def test_the_page_on_decoding_quotes_what_stopping_early_costs() -> None:
    page = (ROOT / "docs" / "decoding.md").read_text(encoding="utf-8")
    rules = result("stop_rules")["rules"]
    for name, of in rules.items():
        shown = {"until nothing open can win": "exact", "patience 1": "`early_stopping`, patience 1"}.get(name, name)
        assert f"| {shown} | {of['steps']:.2f} | {of['bleu']:.2f} | {of['identical']} |" in page
    longest = rules["until nothing open can win"]["longest_translation"]
    assert f"by the exact rule {longest:.2f}." in page


def test_pages_quote_what_two_batches_at_once_bring() -> None:
    serve, decoding = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("serve", "decoding"))
    over_bare = result("serving")["compare"]["summary"]["throughput_over_bare"]
    assert f"64 callers get {over_bare:.2f} times as many" in serve
    small, large = (f"{one['ratio']:.2f}" for one in result("batches_at_once")["batches"].values())
    assert f"{small} times as many sentences in batches of 16, {large} times in batches of 64" in decoding
