"""The page behind each error code, for `irc explain CODE`. Codes are stable: scripts rely on them."""

from __future__ import annotations

from typing import NamedTuple


class Page(NamedTuple):
    title: str
    text: str
    example: str


CODES: dict[str, Page] = {
    "R001": Page(
        "Wrong usage",
        "An option, argument or value that the command does not know. The message names the near match.",
        "irc compile model.onnx -o model.tflit   ->   did you mean .tflite?",
    ),
    "R010": Page(
        "Unknown pass",
        "No pass of that name is built in, loaded with --load, or offered by an installed package.",
        "irc passes                    lists all passes",
    ),
    "R011": Page(
        "Broken pipeline text",
        "A pipeline is passes separated by commas; options stand in braces; fix(...) repeats until nothing changes.",
        "--passes 'canonicalize,fold{max_bytes=1000000},fix(cse,dce)'",
    ),
    "F001": Page(
        "Invalid model",
        "The file contradicts itself or its format: truncated, cyclic, undefined names, wrong sizes. Nothing is guessed.",
        "export the model again, or check it with its own framework",
    ),
    "F002": Page(
        "The content is not what the name says",
        "The first bytes are looked at before anything is parsed. Rename the file, or name its format with --from.",
        "irc compile weights.onnx ...   ->   looks like a zip archive, not onnx",
    ),
    "F010": Page(
        "Shapes or dtypes do not fit",
        "Type inference found operands that an op cannot take. The message names op, operands, and the place in the model.",
        "inner dims of [N, 100] and [50, 7]: 100 and 50 differ",
    ),
    "F100": Page(
        "The system said no", "A file could not be read or written. Nothing half-written is left.", "disk full"
    ),
    "F110": Page(
        "Out of memory", "The process could not get memory.", "irc compile big.onnx -O1 keeps weights on the disk"
    ),
    "F120": Page(
        "A runtime died",
        "The file was run in its real runtime in a child process, and that process ended by a signal or an error.",
        "irc verify a.onnx b.tflite     runs without the runtime, on the reference kernels",
    ),
    "F121": Page("A runtime did not finish", "It was stopped after the time limit.", "give smaller --inputs"),
    "U001": Page(
        "Unsupported",
        "The model is valid and something in it cannot be read, or cannot be expressed in the target. All such places are "
        "listed at once, each with its place in the model and a remedy.",
        "irc inspect model.onnx         shows what each backend would refuse",
    ),
    "U010": Page("No such op", "IR text or a builder names an op that does not exist.", "irc ops"),
    "U020": Page(
        "No reference kernel", "The op cannot be run by us, so nothing behind it can be verified.", "--no-verify"
    ),
    "M001": Page(
        "Over a safety limit",
        "Sizes, counts and depths that a file declares are checked before memory is taken. The message names the limit.",
        "irc compile deep.onnx -o out.tflite --limit nesting=128",
    ),
    "D001": Page(
        "A package is missing",
        "Files need no framework; live objects and real runtimes do. irc doctor lists what is installed.",
        'pip install "anyir[torch]"',
    ),
    "N001": Page(
        "The written file gives other results",
        "The file was read back and run, and an output left its computed limit. Nothing was put in place.",
        "irc compile in.onnx -o out.tflite --check-numerics      names the pass that changed the numbers",
    ),
    "N002": Page(
        "Two models differ", "`irc verify` found an output outside its limit.", "irc verify a.onnx b.tflite --atol 1e-3"
    ),
    "N010": Page(
        "A pass changed the numbers",
        "With --check-numerics the module is run after each pass; the first pass that leaves the limit is named.",
        "irc opt model.onnx --bisect",
    ),
    "X001": Page("Internal error", "Our bug. A report file was written; please send it.", "IRC_DEBUG=1 irc ..."),
    "X002": Page("Broken IR", "A pass or an importer broke an invariant.", "irc opt in.anyir --verify-each"),
    "X003": Page(
        "A pass failed",
        "It raised, returned values of another type, or rewrote without end. --reproducer DIR keeps its input.",
        "irc opt in.onnx --passes my-pass --reproducer case/ ; irc opt case/ --run-reproducer",
    ),
}
