"""The page behind each error code, for `irc explain CODE`. Codes are stable: scripts rely on them.

The letter says whose problem it is: U unsupported, R the request, N numbers, F files and models, M limits, D packages that
are missing, X our bug.
"""

from __future__ import annotations

from typing import NamedTuple


class Page(NamedTuple):
    title: str
    text: str
    example: str


_PAGES: dict[str, Page] = {
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
    "R012": Page(
        "Broken where expression",
        "Layers are chosen by comparing op, name, scope, weight or dtype with = (equal), != or ~ (regular expression), joined\n"
        "by &, | and !, grouped by parentheses. The message shows the column.",
        """--where 'op=conv & !scope~"head|stem"'""",
    ),
    "R020": Page(
        "Broken recipe",
        "The file is not YAML, TOML or JSON, or says something that no recipe can: unknown keys, passes and options, values\n"
        "of another type. All mistakes are listed at once with line and column; nothing has been read or run.",
        "irc recipes schema > recipe.json       lets an editor check recipes",
    ),
    "R022": Page(
        "No such layer",
        "A recipe or an option names a layer that the model does not have, once it is optimised.",
        "irc compress net.onnx --quantize int8 --dry-run      lists the layers and what would be done to each",
    ),
    "R023": Page(
        "An option of a pass cannot be what was given",
        "The value is of the right type and means nothing to the pass, or two options contradict each other. The message\n"
        "says what may stand there.",
        "irc passes quantize            shows the options of a pass",
    ),
    "R024": Page(
        "Data is needed",
        "Ranges of activations, and limits on what may be lost, can only be found by running the model on samples.",
        "irc compress net.onnx -o out.onnx --quantize int8 --data samples.npz",
    ),
    "R025": Page(
        "The float model is needed",
        "Biases are corrected to the means of the float model. The pass quantize does so itself; alone, correct-bias needs the\n"
        "module as it was before quantisation.",
        "irc compress net.onnx -o out.onnx --quantize int8 --data samples.npz      corrects biases already",
    ),
    "F001": Page(
        "Invalid model",
        "The file contradicts itself or its format: truncated, cyclic, undefined names, wrong sizes. Nothing is guessed.",
        "export the model again, or check it with its own framework",
    ),
    "F002": Page(
        "The content is not what the name says",
        "The first bytes are looked at before anything is parsed, and only regular files are. Rename the file, or name\n"
        "its format with --from.",
        "irc compile weights.onnx ...   ->   looks like a zip archive, not onnx",
    ),
    "F010": Page(
        "Shapes or dtypes do not fit",
        "Type inference found operands that an op cannot take. The message names op, operands, and the place in the\n"
        "model.",
        "inner dims of [N, 100] and [50, 7]: 100 and 50 differ",
    ),
    "F020 F021 F022": Page(
        "An op cannot be computed for these inputs",
        "The model was run on the reference kernels, and sizes, values or indices that only running shows are not those\n"
        "that the op can take. Sampled inputs may be the reason: give real ones.",
        "irc compile net.onnx -o net.tflite --inputs sample.npz",
    ),
    "F100": Page(
        "The system said no",
        "A file could not be read or written. Nothing half-written is left, an old output is as it was.",
        "irc compile net.onnx -o /full/disk/net.tflite",
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
    "F130": Page(
        "A runtime refused the file",
        "The message is the runtime's own. After a compile this is a failed check.",
        "irc verify a.onnx b.tflite     runs without the runtime, on the reference kernels",
    ),
    "F210 F211 F212 F213 F214 F230 F231 F232 F233 F234 F235 F236 F237 F238 F239": Page(
        "Broken TFLite file",
        "An offset, a length, an index or an enum of the flatbuffer leads nowhere, or what it declares contradicts its\n"
        "operators. The message names the byte, the tensor or the operator.",
        "the download was cut off: compare the file's size or digest with the original's",
    ),
    "F220": Page(
        "Too many weights for one flatbuffer",
        "A flatbuffer ends at 2 GiB. Weights then stand behind it in the same file.",
        "irc compile big.onnx -o big.tflite --external-data",
    ),
    "F300": Page(
        "Data that cannot be read",
        "Calibration and evaluation samples come from .npz and .npy files, image folders, arrays or a Python function. The\n"
        "message names the file or sample; pickled arrays are never read.",
        "numpy.savez('data.npz', image=x, labels=y)",
    ),
    "F301": Page(
        "Data that does not fit the model",
        "Names, shapes or dtypes of the samples are not those of the model's inputs. Up to three bad files are named.",
        "irc inspect model.onnx         shows the inputs",
    ),
    "F302": Page(
        "Data with NaN or infinity",
        "A sample is not finite, or a value of the model became so while it was run on the samples: no range can be found.",
        "python -c \"import numpy; print(numpy.isfinite(numpy.load('data.npz')['image']).all())\"",
    ),
    "U001": Page(
        "Unsupported",
        "The model is valid and something in it cannot be read, or cannot be expressed in the target. All such places\n"
        "are listed at once, each with its place in the model and a remedy.",
        "irc inspect model.onnx         shows what each backend would refuse",
    ),
    "U010": Page("No such op", "IR text or a builder names an op that does not exist.", "irc ops"),
    "U020": Page(
        "No reference kernel", "The op cannot be run by us, so nothing behind it can be verified.", "--no-verify"
    ),
    "U030": Page(
        "MindIR cannot hold this model",
        "MindSpore has no primitive, dtype or size for a part of the model, also not after it was taken apart.",
        "irc ops --to mindir            lists what can be written",
    ),
    "U031": Page(
        "A MindIR primitive that is not read",
        "MindIR files are read as far as our own backend writes them: to check what was written.",
        "convert from the model's source instead of from its .mindir",
    ),
    "U201": Page(
        "TFLite cannot express this model",
        "A part of the model has no TFLite operator, also not after it was taken apart. Every such part is listed.",
        "irc ops --to tflite            lists what can be written",
    ),
    "U230 U231 U232 U233 U234 U235 U236 U237 U238 U239 U240 U241 U242": Page(
        "A part of TFLite that is not read",
        "TFLite files are read as far as our own backend writes them: to check what was written.",
        "convert from the model's source instead of from its .tflite",
    ),
    "M001 M211": Page(
        "Over a safety limit",
        "Sizes, counts and depths that a file declares are checked before memory is taken. The message names the limit\n"
        "and the option that raises it; docs/usage.md lists all.",
        "irc compile deep.onnx -o out.tflite --limit nesting=128",
    ),
    "M010": Page(
        "Over the budget of a run",
        "Running the model, as every check does, would take more memory or work than the limits run_bytes and run_work\n"
        "and the model's own size allow. `irc compile` then says that the output is not verified.",
        "irc verify a.onnx b.onnx --limit run-bytes=8000000000",
    ),
    "D001 D010": Page(
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
        "Two models differ",
        "`irc verify` found an output outside its limit.",
        "irc verify a.onnx b.tflite --rtol 1e-3 --atol 1e-5",
    ),
    "N003": Page(
        "Two models have different interfaces",
        "Names, order, number or types of inputs and outputs differ: `irc verify` has nothing to compare, `irc diff` says so.",
        "irc diff a.onnx b.tflite",
    ),
    "N004": Page(
        "An output is all NaN",
        "Both models gave nothing but NaN for an output, with several samples: they agree, and no number was compared.",
        "irc verify a.onnx b.tflite --inputs data.npz",
    ),
    "N010": Page(
        "A pass changed the numbers",
        "With --check-numerics the module is run after each pass; the first pass that leaves the limit is named.",
        "irc opt model.onnx --bisect",
    ),
    "N030": Page(
        "A limit of the recipe does not hold",
        "The compressed model loses or costs more than `verify:`, `budget:` or --max-drop allow. Nothing was written; the\n"
        "tables show which layers do most wrong: keep them in float, quantise to 16 bits, or prune less.",
        "irc compress net.onnx -o out.onnx --quantize int8 --data d.npz --max-drop 0.5 --keep-worst 2",
    ),
    "N020": Page(
        "Training went out of bounds",
        "A loss or a gradient became NaN or infinite. The run stops there; the best weights before that come back and are\n"
        "written. The message names epoch, step and loss.",
        "irc distill ... --rate 1e-4 --clip-norm 1",
    ),
    "X001": Page("Internal error", "Our bug. A report file was written; please send it.", "IRC_DEBUG=1 irc ..."),
    "X002": Page("Broken IR", "A pass or an importer broke an invariant.", "irc opt in.anyir --verify-each"),
    "X003": Page(
        "A pass failed",
        "It raised, returned values of another type, or rewrote without end. --reproducer DIR keeps its input.",
        "irc opt in.onnx --passes my-pass --reproducer case/ ; irc opt case/ --run-reproducer",
    ),
}

CODES: dict[str, Page] = {code: page for codes, page in _PAGES.items() for code in codes.split()}
