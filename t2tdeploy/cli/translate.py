"""Commands that ask a model: translate, score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from t2tdeploy.cli import options
from t2tdeploy.cli.console import make_reporter
from t2tdeploy.cli.documents import translate_document
from t2tdeploy.cli.lines import name_of, one_line, read_lines, require_output, write_lines, write_text

if TYPE_CHECKING:
    from t2tdeploy.decoding import TranslateOptions
    from t2tdeploy.errors import RequestError, UserError
    from t2tdeploy.hypotheses import Hypothesis
    from t2tdeploy.serving.channel import Security
    from t2tdeploy.serving.client import Client
    from t2tdeploy.translator import TargetScore

Command = TypeVar("Command", bound=Callable[..., Any])

_DECODING = (
    click.option("--num-hypotheses", type=click.IntRange(1, 16), help="Translations per sentence [1]."),
    click.option("--extra-length", type=click.IntRange(1), help="Tokens a translation may have more than its source."),
    click.option("--max-length", type=click.IntRange(1), help="Tokens that a translation may have at most."),
    click.option("--max-ratio", type=float, help="The same, for every token of the source."),
    click.option("--min-length", type=click.IntRange(0), help="Tokens that a translation must have."),
    click.option("--min-ratio", type=float, help="The same, for every token of the source."),
    click.option("--repetition-penalty", type=float, help="Above 1: repeated tokens become less likely [1]."),
    click.option("--no-repeat-ngram-size", type=click.IntRange(0), help="No so many tokens twice [0: off]."),
    click.option("--coverage-penalty", type=float, help="For source tokens hardly looked at [0: off]."),
    click.option("--suppress", multiple=True, help="A piece that is never chosen; may be given several times."),
    click.option("--suppress-unknown", is_flag=True, help="Never choose the unknown token."),
    click.option("--replace-unknown", is_flag=True, help="Put the source token looked at in place of unknown ones."),
    click.option("--temperature", type=float, help="Above 0: samples instead of a search [0]."),
    click.option("--top-k", type=click.IntRange(0), help="Samples from the k likeliest tokens [0: all]."),
    click.option("--top-p", type=float, help="Samples from the likeliest tokens of this probability together [1]."),
    click.option("--seed", type=click.IntRange(0), help="The same seed gives the same samples [another each time]."),
    click.option("--alternatives", is_flag=True, help="Hypotheses go on differently after the target prefix."),
    click.option("--return-tokens", is_flag=True, help="With --json: every token with its log-probability."),
    click.option("--return-attention", is_flag=True, help="With --json: and what of the source it looked at."),
    click.option("--truncate", is_flag=True, help="Cut sentences that are too long instead of refusing them."),
)


def _decoding(command: Command) -> Command:
    """The fields of TranslateOptions."""
    for option in reversed(_DECODING):
        command = option(command)
    return options.search(command)


@click.command()
@click.option("--server", help="host:port of a t2tdeploy serve.")
@click.option("--bundle", "bundle_dir", type=options.directory, help="Instead of a server: a bundle on this machine.")
@options.variant
@click.argument("text", nargs=-1)
@click.option(
    "--input", "input_file", type=options.file_or_dash, help="Text, a sentence a line [the arguments, or -: a pipe]."
)
@click.option(
    "--document", "document_file", type=options.file, help="Running text instead; its white space and lines are kept."
)
@click.option("--language", default="", help="With --document: its language, as de; helps to find sentences.")
@click.option(
    "--output", "output_file", type=options.file_or_stdout, help="Where translations go [-: standard output]."
)
@click.option("--target-prefix", help="What every translation starts with.")
@click.option("--target-prefixes", "prefix_file", type=options.file, help="What each starts with, a line for each.")
@_decoding
@click.option("--model", default="", help="The server's model, NAME or NAME:VERSION [its only one].")
@click.option("--priority", type=click.IntRange(-2, 2), help="With --server: higher goes first [0; documents -1].")
@click.option(
    "--timeout", type=options.Number(0, min_open=True, infinite=True),
    help="With --server: seconds per request [60; of a document: none].",
)  # fmt: skip
@options.security
@options.as_json
def translate(
    server: str | None,
    bundle_dir: Path | None,
    variant: str | None,
    text: tuple[str, ...],
    input_file: Path | None,
    document_file: Path | None,
    language: str,
    output_file: Path | None,
    target_prefix: str | None,
    prefix_file: Path | None,
    model: str,
    priority: int | None,
    timeout: float | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Translate sentences, given as arguments, a file, or a pipe, or a document: with a running server, or a bundle.

    \b
    Examples:
      t2tdeploy translate --server localhost:50051 "Two dogs play in the snow."
      t2tdeploy translate --server localhost:50051 --input in.en --output out.de
      t2tdeploy translate --server localhost:50051 --document letter.txt --language en --output brief.txt
      t2tdeploy translate --bundle bundles/ende --num-hypotheses 3 --temperature 0.8 "Two dogs play in the snow."
    """
    from t2tdeploy.decoding import TranslateOptions
    from t2tdeploy.errors import RequestError

    _require_sensible(click.get_current_context())
    require_output(output_file)
    asked = TranslateOptions(**{name: value for name, value in given.items() if name not in options.SECURITY_NAMES})

    def connect() -> Client:
        return _client(str(server), model, priority, timeout or 60.0, options.security_of(given))

    if document_file is not None:
        translate_document(
            document_file, output_file, asked, language=language, bundle_dir=bundle_dir, variant=variant,
            connect=connect, timeout=timeout, as_json=as_json,
        )  # fmt: skip
        return
    sources = list(text) if text else read_lines(input_file)
    prefixes = _prefixes(target_prefix, prefix_file, len(sources))
    try:
        if bundle_dir is not None:
            from t2tdeploy.api import load_translator

            found = load_translator(bundle_dir, variant=variant).translate(sources, asked, target_prefixes=prefixes)
        else:
            with connect() as client:
                reporter = None if text else make_reporter(as_json)
                found = client.translate(sources, asked, target_prefixes=prefixes, reporter=reporter)
    except RequestError as error:
        raise error if text else _naming_the_line(error, input_file) from None
    _write_found(output_file, sources, found, asked, as_json)


def _require_sensible(context: click.Context) -> None:
    """Refuses options that do not go together."""
    options.require_server_or_bundle(context)
    given = options.given(context)
    if "as_json" not in given:
        options.refuse(context, ("return_tokens", "return_attention"), "needs --json")
    if "temperature" not in given:
        options.refuse(context, ("top_k", "top_p", "seed"), "is of samples: give --temperature")
    names = {"text": "sentences", "input_file": "--input", "document_file": "--document"}
    sources = [option for name, option in names.items() if name in given]
    if len(sources) > 1:
        raise click.UsageError(f"{' and '.join(sources)} are given: choose one", ctx=context)
    if "document_file" in given:
        of_sentences = ("target_prefix", "prefix_file", "truncate", "return_tokens", "return_attention")
        options.refuse(context, of_sentences, "means nothing with --document")
    else:
        options.refuse(context, ["language"], "is for --document")
    if "document_file" in given and given.get("num_hypotheses", 1) != 1 and "as_json" not in given:
        raise click.UsageError("--num-hypotheses of a document needs --json", ctx=context)


def _prefixes(prefix: str | None, path: Path | None, count: int) -> list[str] | None:
    from t2tdeploy.errors import InputError

    if prefix is not None and path is not None:
        raise click.UsageError(
            "--target-prefix and --target-prefixes are given: choose one", ctx=click.get_current_context()
        )
    if prefix is not None:
        return [prefix] * count
    if path is None:
        return None
    lines = read_lines(path)
    if len(lines) != count:
        raise InputError(f"{path} has {len(lines)} lines for {count} sentences", path=path)
    return lines


def _client(server: str, model: str, priority: int | None, timeout: float, security: Security) -> Client:
    from t2tdeploy.serving.client import Client, ClientOptions

    name, _, version = model.partition(":")
    chosen = ClientOptions(model=name, model_version=version, priority=priority, timeout=timeout, security=security)
    return Client(server, chosen)


def _write_found(
    path: Path | None, sources: list[str], found: list[list[Hypothesis]], asked: TranslateOptions, as_json: bool
) -> None:
    if asked.num_hypotheses is None and not as_json:
        write_lines(path, sources, [hypotheses[0].text for hypotheses in found], as_json=False)
    elif asked.num_hypotheses is None and not (asked.return_tokens or asked.return_attention):
        write_lines(path, sources, [hypotheses[0].text for hypotheses in found], as_json=True)
    else:
        _write_hypotheses(path, sources, found, as_json)


@click.command()
@click.option("--bundle", "bundle_dir", type=options.directory, required=True, help="What export wrote.")
@options.variant
@click.option("--source", "source_file", type=options.file, required=True, help="Sources, a sentence a line.")
@click.option("--target", "target_file", type=options.file, required=True, help="Their translations, a line for each.")
@click.option("--output", "output_file", type=options.file_or_stdout, help="Where scores go [-: standard output].")
@click.option("--return-tokens", is_flag=True, help="With --json: every token with its log-probability.")
@options.as_json
def score(
    bundle_dir: Path,
    variant: str | None,
    source_file: Path,
    target_file: Path,
    output_file: Path | None,
    return_tokens: bool,
    as_json: bool,
) -> None:
    """Score given translations: the log-probability of each and its number of tokens, a line for each pair.

    Sorts out bad pairs of a corpus, ranks translations of other systems, tells how well a model knows a domain: the
    perplexity of all tokens goes to standard error. A target that the model can never say has -inf (null in JSON) and
    no tokens.

    \b
    Example:
      t2tdeploy score --bundle bundles/ende --source dev.en --target dev.de --output dev.scores
    """
    import json

    from t2tdeploy.api import load_translator
    from t2tdeploy.errors import InputError, RequestError

    if return_tokens and not as_json:
        raise click.UsageError("--return-tokens needs --json", ctx=click.get_current_context())
    require_output(output_file)
    sources, targets = read_lines(source_file), read_lines(target_file)
    if len(sources) != len(targets):
        raise InputError(f"{source_file} has {len(sources)} lines, {target_file} has {len(targets)}", path=target_file)
    translator = load_translator(bundle_dir, variant=variant)
    try:
        scores = translator.score(sources, targets)
    except RequestError as error:
        raise _naming_the_line(error, target_file if error.field.startswith("targets") else source_file) from None
    lines = [
        json.dumps(_score_record(one, return_tokens), ensure_ascii=False)
        if as_json
        else f"{one.log_prob:.4f}\t{len(one.tokens)}"
        for one in scores
    ]
    write_text(output_file, "".join(f"{line}\n" for line in lines))
    if scores and not as_json:
        click.echo(_summary(scores), err=True)


def _summary(scores: list[TargetScore]) -> str:
    from t2tdeploy.hypotheses import perplexity

    possible = [one for one in scores if one.tokens]
    tokens = sum(len(one.tokens) for one in possible)
    words = f"{len(scores)} pairs, {tokens} tokens"
    if possible:
        words += f", perplexity {perplexity(-sum(one.log_prob for one in possible) / tokens):.3f}"
    if len(possible) < len(scores):
        words += f"; {len(scores) - len(possible)} not counted, whose targets the model can never say"
    return words


def _score_record(one: TargetScore, tokens: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"log_prob": one.log_prob if one.tokens else None, "tokens": len(one.tokens)}
    if tokens:
        record["details"] = [{"piece": token.piece, "score": token.score} for token in one.tokens]
    return record


def _naming_the_line(error: RequestError, path: Path | None) -> UserError:
    """`error` with the line of the file or pipe in place of sources[…]; any other field stays."""
    import re

    from t2tdeploy.errors import InputError

    index = re.fullmatch(r"(?:sources|targets)\[(\d+)\]", error.field)
    if index is None:
        return error
    line = int(index[1]) + 1
    reason = error.message.removeprefix(f"{error.field}: ")
    return InputError(f"{name_of(path)}, line {line}: {reason}", path=path, line=line, help=error.help)


def _without_nothing(hypothesis: dict[str, Any]) -> dict[str, Any]:
    """Leaves out details and attention that were not asked for, and ids, which servers do not send."""
    if not hypothesis["ids"]:
        del hypothesis["ids"]
    details = [{key: value for key, value in token.items() if value != ()} for token in hypothesis.pop("details")]
    return {**hypothesis, "details": details} if details else hypothesis


def _write_hypotheses(path: Path | None, sources: list[str], found: list[list[Hypothesis]], as_json: bool) -> None:
    """Several translations per sentence: score, tab, text; sentences are parted by an empty line."""
    import json
    from dataclasses import asdict

    if as_json:
        records = [
            {"source": source, "hypotheses": [_without_nothing(asdict(hypothesis)) for hypothesis in hypotheses]}
            for source, hypotheses in zip(sources, found, strict=True)
        ]
        write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return
    blocks = ["".join(f"{one.score:.4f}\t{one_line(one.text)}\n" for one in hypotheses) for hypotheses in found]
    write_text(path, "\n".join(blocks))
