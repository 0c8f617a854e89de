# SPDX-License-Identifier: Apache-2.0
"""What a person got wrong is answered with exit code 2, or 3 where it is of the data, and one sentence that names the place, the finding and what was
expected, and nothing is left behind. Each case is also started right, so that it is refused for its own reason."""
import os
import pathlib
import sys

sys.path.insert(0, os.path.join(os.environ["TESSERA_SOURCE"], "tests", "support"))
import h5py
import numpy as np
import runs

KEYS = {
    "data.files": ["text.txt"],
    "model.n_layers": 1, "model.n_heads": 2, "model.dim": 32,
    "training.steps": 2, "training.seq_len": 16, "training.global_batch_size": 8, "training.local_batch_size": 2,
    "checkpoint.interval": 0,
}
H100 = os.path.join(os.environ["TESSERA_SOURCE"], "cluster", "machines", "h100_ndr.toml")
HDF5 = ["data.reader=hdf5", 'data.files=["good.h5"]', "data.input_field=x", "data.target_field=y"]
TOKENS = ["data.reader=tokens", "data.vocab_size=50", "data.validation_fraction=0"]

# (words after `tessera`, what the sentence must hold); `train` is of gpt.toml unless a config is named.
CONFIG = [
    (["train", "typo.toml"], "typo.toml:10:1: no key named 'training.stepz'; did you mean 'training.steps'?"),
    (["train", "section.toml"], "section.toml:1:2: no section named 'modle'; did you mean 'model'?"),
    (["train", "type.toml"], "type.toml:10:1: training.steps = 'two': expected an integer, found a string"),
    (["train", "syntax.toml"], "syntax.toml:2:"),
    (["train", "nowhere.toml"], "cannot read nowhere.toml: No such file or directory"),
    (["train", "gpt.toml", "training.steps"], "command line: 'training.steps' is not of the form section.key=value"),
    (["train", "gpt.toml", "training.steps=2.5"], "command line: training.steps = 2.5: expected an integer"),
    (["train", "gpt.toml", "training.step=3"], "command line: no key named 'training.step'; did you mean 'training.steps'?"),
    (["train", "heads.toml"], "heads.toml:6:1: model.n_heads = 5: model.dim = 32 cannot be cut into 5 heads"),
    (["train", "batch.toml"], "batch.toml:12:1: training.global_batch_size = 9: is no multiple of training.local_batch_size = 2"),
    (["train", "gpt.toml", "training.steps=0"], "command line: training.steps = 0: must be at least 1"),
    (["train", "gpt.toml", "training.seed=-1"], "command line: training.seed = -1: "),
    (["train", "gpt.toml", "training.dtype=fp16"], "command line: training.dtype = \"fp16\": "),
    (["train", "gpt.toml", "model.type=gtp"], "no model named 'gtp'; did you mean 'gpt'?"),
    (["train", "gpt.toml", "model.activation=gleu"], "no activation named 'gleu'; did you mean 'gelu'?"),
    (["train", "gpt.toml", "model.norm_eps=0"], "command line: model.norm_eps = 0.0: must be above 0 and below 1"),
    (["train", "gpt.toml", "model.n_kv_heads=3"], "command line: model.n_kv_heads = 3: 2 heads cannot share 3 heads of keys evenly"),
    (["train", "gpt.toml", "model.head_dim=300"], "command line: model.head_dim = 300: must be from 0 to 256"),
    (["train", "gpt.toml", "model.position_embedding=rop"], "no position embedding named 'rop'; did you mean 'rope'?"),
    (["train", "gpt.toml", "model.position_embedding=rope", "model.head_dim=15"],
     "model.position_embedding = \"rope\": heads of 15 have no pairs that could turn"),
    (["train", "gpt.toml", "model.position_embedding=rope", "model.rope_theta=0.5"], "model.rope_theta = 0.5: must be from 1 to 1e12"),
    (["train", "gpt.toml", "model.position_embedding=rope", "model.rope_scaling=llama"],
     "no scaling of angles named 'llama'; did you mean 'llama3'?"),
    (["train", "gpt.toml", "model.position_embedding=rope", "model.rope_scaling=llama3", "model.rope_high_freq_factor=1"],
     "model.rope_high_freq_factor = 1.0: must be above model.rope_low_freq_factor"),
    (["train", "gpt.toml", "model.rope_theta=20"], "model.rope_theta"),
    (["train", "gpt.toml", "model.moe_experts=-1"], "command line: model.moe_experts = -1: must be from 0 to 1024"),
    (["train", "gpt.toml", "model.moe_experts=2", "model.moe_top_k=3"], "command line: model.moe_top_k = 3: there are 2 experts"),
    (["train", "gpt.toml", "model.moe_capacity_factor=0"], "command line: model.moe_capacity_factor = 0.0: must be above 0"),
    (["train", "gpt.toml", "model.moe_z_coefficient=-1"], "command line: model.moe_z_coefficient = -1.0: must be from 0 to 1e6"),
    (["train", "gpt.toml", "model.moe_experts=2", "model.moe_every=2"], "model.moe_every = 2: none of the 1 blocks has experts"),
    (["train", "gpt.toml", "model.dropout=1"], "command line: model.dropout = 1"),
    (["train", "gpt.toml", "optimizer.name=adamm"], "no optimizer named 'adamm'; did you mean 'adam'?"),
    (["train", "gpt.toml", "optimizer.momentum=0.9"], "optimizer.momentum"),
    (["train", "gpt.toml", "lr_scheduler.type=cosin"], "no schedule named 'cosin'; did you mean 'cosine'?"),
    (["train", "gpt.toml", "lr_scheduler.warmup_steps=-1"], "command line: lr_scheduler.warmup_steps = -1: must be at least 0"),
    (["train", "gpt.toml", "data.files=[]"], "command line: data.files = []: names no file to train on"),
    (["train", "gpt.toml", *HDF5[:2]], "data.input_field = \"\": names no dataset of samples"),
    (["train", "gpt.toml", *HDF5[:3]], "data.target_field = \"\": names no dataset of what is to be found"),
    (["train", "gpt.toml", *HDF5[:3], "data.target_field=x"], "data.target_field = \"x\": is what data.input_field names, too"),
    (["train", "gpt.toml", *HDF5, "data.validation_input_field=v"],
     "data.validation_target_field = \"\": names no dataset: those to evaluate on come in a pair"),
    (["train", "gpt.toml", *HDF5, "data.cache_mib=0"], "data.cache_mib = 0: must be from 1 to 1048576"),
    (["train", "gpt.toml", *HDF5, "data.features=3", "data.image_shape=[1,1,3]"],
     "data.features = 3: is for samples that are no images, and data.image_shape is given"),
    (["train", "gpt.toml", "data.cache_mib=64"], "data.cache_mib"),
    (["train", "gpt.toml", "data.reader=texts"], "no reader named 'texts'; did you mean 'text'?"),
    (["train", "gpt.toml", "data.tokenizer=bite"], "no tokenizer named 'bite'; did you mean 'byte'?"),
    (["train", "gpt.toml", "data.order=shuffel"], "no sample order named 'shuffel'; did you mean 'shuffle'?"),
    (["train", "gpt.toml", "metrics.color=sometimes"], "command line: metrics.color = \"sometimes\": no choice named 'sometimes'"),
    (["train", "gpt.toml", "metrics.log_every=0"], "command line: metrics.log_every = 0: expected at least 1"),
    (["train", "gpt.toml", "metrics.evaluate_every=-1"], "command line: metrics.evaluate_every = -1: must be at least 0"),
    (["train", "gpt.toml", "checkpoint.interval=-2"], "command line: checkpoint.interval = -2: must be at least -1"),
    (["train", "gpt.toml", "checkpoint.keep_latest_k=-1"], "command line: checkpoint.keep_latest_k = -1: must be at least 0"),
    (["train", "gpt.toml", "run.name=../elsewhere"], "command line: run.name = \"../elsewhere\": expected a name without '/'"),
    (["train", "gpt.toml", "run.step_timeout=-1"], "expected seconds, at most a year of them; 0: by the last steps"),
    (["plan", "gpt.toml", "run.step_timeout=1e9"], "expected seconds, at most a year of them"),
    (["train", "gpt.toml", "run.check_collectives=2"], "run.check_collectives"),
    (["train", "gpt.toml", "--plant", "0 5 sleeping"], "no fault '0 5 sleeping': say RANK STEP WHERE WHAT"),
    (["train", "gpt.toml", "--plant", "0 5 readin spin"], "no place of a fault named 'readin'; did you mean 'reading'?"),
    (["train", "gpt.toml", "--plant", "0 5 reading spn"], "no fault named 'spn'; did you mean 'spin'?"),
    (["train", "gpt.toml", "run.threads=-1"], "command line: run.threads = -1: must be from 0 to 4096"),
    (["train", "gpt.toml", "parallelism.data_parallel_degree=2"], "parallelism.data_parallel_degree = 2: "),
    (["plan", "-n", "4", "gpt.toml", "parallelism.context_parallel_degree=4"],
     "model.n_heads = 2: 2 heads cannot be shared out evenly over 4 ranks of context parallelism: "
     "parallelism.context_parallel_method = \"ring\" shares out none"),
    (["plan", "-n", "3", "gpt.toml", "parallelism.context_parallel_degree=3", "parallelism.context_parallel_method=ring"],
     "training.seq_len = 16: 16 tokens cannot be dealt out to 3 ranks of context parallelism in 6 equal chunks"),
    (["plan", "gpt.toml", "parallelism.context_parallel_method=rings"], "no method of context parallelism named 'rings'; did you mean 'ring'?"),
    (["plan", "-n", "3", "gpt.toml", "parallelism.context_parallel_degree=3"],
     "training.seq_len = 16: 16 tokens cannot be shared out evenly over 3 ranks of context parallelism"),
    (["plan", "-n", "2", "gpt.toml", "parallelism.spatial_parallel_degree=2"],
     "parallelism.spatial_parallel_degree = 2: the model reads no images that 2 ranks could share out"),
    (["plan", "-n", "6", "gpt.toml", "parallelism.spatial_parallel_width_degree=2", "parallelism.spatial_parallel_degree=2"],
     "spatial_parallel_degree 2 x spatial_parallel_width_degree 2 x tensor_parallel_degree 1 = 4 ranks or a multiple, but 6 run"),
    (["plan", "-n", "3", "gpt.toml", "parallelism.tensor_parallel_degree=2"], "2 ranks or a multiple, but 3 run"),
    (["plan", "-n", "2", "gpt.toml", "parallelism.tensor_parallel_degree=2", "training.dtype=bf16", "training.linear_dtype=f8"],
     "command line: training.linear_dtype = \"f8\": "),
    (["plan", "-n", "2", "gpt.toml", "parallelism.pipeline_parallel_degree=2", "parallelism.pipeline_schedule=2f2b"],
     "command line: parallelism.pipeline_schedule = \"2f2b\": no schedule named '2f2b'; did you mean '1f1b'?"),
    (["plan", "-n", "16", "gpt.toml", "parallelism.pipeline_parallel_degree=16"], "cannot be shared out over 16 stages of a pipeline"),
    (["plan", "-n", "3", "gpt.toml", "parallelism.zero_stage=2"], "must be a multiple of that"),
    (["plan", "gpt.toml", "--memory", "80GiB"], "--memory is the limit of a --search: say that, too"),
    (["plan", "gpt.toml", "--beside", "data"], "--beside changes a prediction: say --machine FILE, too"),
    (["plan", "--search", "--rank", "0", "gpt.toml"], "--rank says nothing in a --search, which looks at all ranks"),
    (["plan", "gpt.toml", "parallelism.zero_stage=4"], "command line: parallelism.zero_stage = 4: must be 0, 1, 2 or 3"),
    (["plan", "gpt.toml", "parallelism.zero_prefetch=-1"], "command line: parallelism.zero_prefetch = -1: must be from 0 to 64"),
    (["plan", "-n", "4", "gpt.toml", "parallelism.data_parallel_replicate_degree=2"],
     "command line: parallelism.data_parallel_replicate_degree = 2: replicas are of what ZeRO shares out"),
    (["plan", "-n", "4", "gpt.toml", "parallelism.data_parallel_replicate_degree=4", "parallelism.zero_stage=1"],
     "parallelism.zero_stage = 1 would share out nothing"),
    (["plan", "-n", "4", "gpt.toml", "parallelism.data_parallel_replicate_degree=3", "parallelism.zero_stage=1"],
     "data_parallel_replicate_degree 3"),
    (["plan", "gpt.toml", "model.document_end_token=999999"], "model.document_end_token = 999999: expected -1, or one of"),
    (["plan", "gpt.toml", "training.recompute=ful"], "no recomputation named 'ful'; did you mean 'full'?"),
]
DATA = [  # the config is right, the data are not: exit code 3
    (["train", "gpt.toml", 'data.files=["missing.txt"]'], "missing.txt: there is no such file"),
    (["train", "gpt.toml", 'data.files=["missing*.txt"]'], "missing*.txt: no file matches this pattern"),
    (["train", "gpt.toml", 'data.files=["empty"]'], "empty: this is a directory, expected a file"),
    (["train", "gpt.toml", 'data.files=["empty.txt"]'], "empty.txt: the file is empty"),
    (["train", "gpt.toml", 'data.files=["latin.txt"]', "data.tokenizer=character"], "latin.txt: byte 3 (0xe9) is not valid UTF-8"),
    (["train", "gpt.toml", "data.tokenizer_file=nowhere.json"], "nowhere.json: there is no such file"),
    (["train", "gpt.toml", "data.tokenizer_file=empty"], "empty: this folder holds no tokenizer: none of tokenizer.json"),
    (["train", "gpt.toml", 'data.files=["short.txt"]', "data.validation_fraction=0"],
     "short.txt has 10 tokens for training, a window of 16 needs 17"),
    (["train", "gpt.toml", "data.reader=csv", "data.target_columns=[\"y\"]", 'data.files=["words.csv"]'], "words.csv:2: "),
    (["train", "gpt.toml", *HDF5, 'data.files=["words.csv"]'], "words.csv: is no HDF5 file"),
    (["train", "gpt.toml", *HDF5, 'data.files=["cut.h5"]'], "cut.h5: cannot be opened as HDF5: truncated file"),
    (["train", "gpt.toml", *HDF5, "data.input_field=inputs"], "good.h5: no dataset named 'inputs'; there are: /names, /short, /x, /y"),
    (["train", "gpt.toml", *HDF5, "data.target_field=short"], "good.h5: dataset 'short': has 7 rows, but 'x' has 9 samples"),
    (["train", "gpt.toml", *HDF5, "data.target_field=names"], "good.h5: dataset 'names': holds texts, expected integers or floats"),
    (["train", "gpt.toml", *HDF5, 'data.files=["good.h5", "other.h5"]'],
     "other.h5: dataset 'x': samples are (4) of floats, those of good.h5 (3) of floats"),
    (["train", "gpt.toml", *HDF5, "data.classes=2"], "good.h5: dataset 'y'"),
    (["train", "gpt.toml", *TOKENS, 'data.files=["magic.bin"]'], "magic.bin: not a token file (magic 7, expected 20240520 or 20240801)"),
    (["train", "gpt.toml", *TOKENS, 'data.files=["version.bin"]'], "version.bin: version 9 of this format, expected 1"),
    (["train", "gpt.toml", *TOKENS, 'data.files=["cut.bin"]'],
     "cut.bin: the header says 999 tokens of 2 bytes, but 1200 bytes follow it (truncated)"),
    (["train", "gpt.toml", *TOKENS, 'data.files=["header.bin"]'], "header.bin: not a token file (5 bytes, the header alone has 1024)"),
]
LIMIT = [
    (["train", "gpt.toml", "training.recompute=auto"], "training.recompute = \"auto\": wants run.memory_limit, the memory of a rank"),
    (["plan", "gpt.toml", "run.memory_limit=8 gigs"], "run.memory_limit = \"8 gigs\": is no size: say it as 512MiB, 80GiB or 1.5TiB"),
    (["train", "gpt.toml", "run.memory_limit=8000000"], "run.memory_limit"),
]
WITHOUT_CHECKPOINT = [
    (["generate", "empty"], "empty"),
    (["generate", "nowhere"], "nowhere"),
    (["evaluate", "empty"], "empty"),
    (["checkpoint", "inspect", "empty"], "empty"),
    (["checkpoint", "inspect", "nowhere"], "nowhere"),
    (["checkpoint"], "found no argument; usage: tessera checkpoint inspect|verify"),
    (["checkpoint", "inspekt", "empty"], "no checkpoint command named 'inspekt'; did you mean 'inspect'?"),
    (["checkpoint", "inspect"], "checkpoint inspect: expected one checkpoint or run"),
    (["checkpoint", "diff", "empty"], "checkpoint diff: expected two checkpoints or runs"),
    (["checkpoint", "average", "empty"], "empty"),
    (["checkpoint", "export", "empty"], "checkpoint export: say --safetensors, --hdf5-single, --hugging-face, --llmc or --onnx, and a path"),
    (["checkpoint", "export", "empty", "--llmc", "a", "--safetensors", "b"], "--safetensors or --llmc, one at a time"),
    (["checkpoint", "export", "empty", "--llmc", "a", "--dtype", "bf61"], "--dtype: no dtype named 'bf61'; did you mean 'bf16'?"),
    (["checkpoint", "import", "text.txt"], "checkpoint import: say --to RUN, the folder to put it into"),
    (["checkpoint", "import", "nowhere.safetensors", "--to", "new"], "cannot open nowhere.safetensors: No such file or directory"),
    (["checkpoint", "import", "text.txt", "--to", "new"], "text.txt is no safetensors file"),
    (["train", "deep.toml"], "deep.toml:1: a name of more than 16 parts"),
    (["train", "device.toml"], "/dev/zero has over 4194304 bytes, which no config has"),
    (["train", "gpt.toml", "checkpoint.resume=nowhere"], "nowhere"),
    (["doctor", "--plant", "slow", "gpt.toml"], "--plant slow: expected slow:RANK"),
    (["doctor", "-n", "2", "--plant", "slow:x"], "--plant slow: x: expected a whole number from 0 to"),
    (["doctor", "-n", "2", "--milliseconds", "0"], "--milliseconds 0: expected a whole number from 1 to"),
    (["doctor", "training.stepz=2"], "command line: no key named 'training.stepz'"),
    (["doctor", "training.steps=2"], "training.steps"),
    (["verify", "--threads", "2", "gpt.toml"], "--threads is of ranks to start: say --ranks, too"),
    (["verify", "--plant", "drop:loss", "gpt.toml"], "no collective named 'loss': one rank needs none"),
    (["verify", "--plant", "scale:loss:2", "gpt.toml"], "no value of this model named 'loss:2'; did you mean 'loss:"),
    (["verify", "--plant", "loss", "gpt.toml"], "no fault 'loss': say drop:NAME or scale:NAME"),
    (["verify", "-n", "2", "--steps", "0", "gpt.toml"], "--steps 0: expected a whole number from 1 to"),
    (["plan", "gpt.toml", "-n", "0"], "--ranks 0: expected a whole number from 1 to"),
    (["plan", "gpt.toml", "--search", "-n", "100000", "run.device=cpu"], "100000 ranks are more than can be measured on this host of"),
    (["bench", "-n", "2", "run.devices=cpu"], "did you mean 'run.device'"),
    (["plan", "gpt.toml", "--search", "--machine", H100, "--memory", "80"], "--memory 80: expected a size such as 512MiB"),
    (["plan", "gpt.toml", "--search", "--machine", H100, "--memory", "1KiB", "run.device=cpu"], "no layout of 1 rank fits in"),
    (["plan", "gpt.toml", "--search", "--machine", H100, "run.device=cpu", "training.local_batch_size=3"], "no size of a micro-batch"),
    (["plan", "gpt.toml", "--machine", "nowhere.toml"], "cannot read nowhere.toml"),
    (["plan", "gpt.toml", "--machine", "gpt.toml"], "no section named 'checkpoint'; there are: network, node, rank"),
]
SUBMIT = [
    (["submit", "--time", "4h", "gpt.toml"], "--time '4h': expected minutes, MM:SS, HH:MM:SS"),
    (["submit", "--time", "1", "--signal-before", "60", "gpt.toml"], "--signal-before 60: the signal would come before the run: --time 1 is 60 s"),
    (["submit", "--nodes", "4-2", "gpt.toml"], "--nodes 4-2: expected N, or the fewest and the most as N-M"),
    (["submit", "--nodes", "two", "gpt.toml"], "--nodes two: expected a whole number from 1 to"),
    (["submit", "--nodes", "3", "gpt.toml", "parallelism.tensor_parallel_degree=2"], "2 ranks or a multiple, but 3 run"),
    (["submit", "--nodes", "2-3", "gpt.toml", "parallelism.tensor_parallel_degree=2"], "2 ranks or a multiple, but 3 run"),
    (["submit", "--nodes", "2", "--nodes", "3", "gpt.toml"], "--nodes is said 2 times"),
    (["submit", "--job-name", "a;b", "gpt.toml"], "--job-name 'a;b': expected letters, digits and"),
    (["submit", "--partition", "$(id)", "gpt.toml"], "--partition '$(id)': expected letters, digits and"),
    (["submit", "--sbatch-option", "mem=0", "gpt.toml"], "--sbatch-option 'mem=0': expected a whole option, as --mem=0"),
    (["submit", "--sbatch-option", "--mem=0\ntouch x", "gpt.toml"], "--sbatch-option: a batch script cannot hold a line break"),
    (["submit", "gpt.toml", "run.folder=a\nb"], "cannot hold a line break"),
    (["submit", "gpt.toml", "training.stepz=2"], "no key named 'training.stepz'; did you mean 'training.steps'?"),
    (["submit", "--sweep", "optimizer.lr", "gpt.toml"], "--sweep 'optimizer.lr': expected section.key=VALUE,VALUE,…"),
    (["submit", "--sweep", "training.steps=2,none", "gpt.toml"], "command line: training.steps = 'none': expected an integer"),
    (["submit", "--sweep", "run.folder=a,b", "gpt.toml"], "--sweep: each run has a folder of its own anyway"),
    (["submit", "--at-once", "2", "gpt.toml"], "--at-once is of an array: say --sweep, too"),
    (["submit", "--chain", "2", "--sweep", "training.seed=1,2", "gpt.toml"], "--chain: "),
]
LAUNCHERS = [
    ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun started 4 ranks, but MPI sees 1"),
    ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}, "srun started 4 tasks, but MPI sees 1: use srun --mpi=pmix"),
    ({"PMI_SIZE": "4"}, "a PMI launcher started 4 ranks, but MPI sees 1"),
]

failures = []


def state():
    """Every path below the folder, with a file's content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in pathlib.Path().rglob("*")}


def refused(words, sentence, code=2, **options):
    """That exit code, that one sentence, nothing on the standard output, and no path made or changed."""
    before = state()
    try:
        run = runs.tessera(*words, code=code, **options)
        assert sentence in run.err, f"expected '{sentence}', found: {run.err}"
        if not options:
            assert not run.err.startswith("tessera: rank"), f"names a rank although it is alone: {run.err}"
        lines = [line for line in run.err.splitlines() if line.startswith("tessera:")]
        assert len(lines) == 1, f"{len(lines)} sentences: {run.err}"
        if not options.get("ranks"):  # mpirun adds words of its own
            assert run.err.count("\n") == 1, f"more than a sentence: {run.err}"
        assert not run.out, f"on the standard output: {run.out}"
        left = [path for path, content in state().items() if before.get(path, 0) != content]
        assert not left, f"left behind: {left}"
    except AssertionError as error:
        failures.append(f"tessera {' '.join(words)} {options or ''}: {error}")


def write_inputs():
    runs.write_text("text.txt", 6_000)
    pathlib.Path("empty.txt").touch()
    pathlib.Path("short.txt").write_text("0123456789", encoding="utf-8")
    pathlib.Path("words.csv").write_text("x,y\n1,two\n", encoding="utf-8")
    pathlib.Path("empty").mkdir()
    pathlib.Path("latin.txt").write_bytes(b"caf\xe9 and more text than a window has")
    runs.write_config("gpt.toml", KEYS)
    text = pathlib.Path("gpt.toml").read_text(encoding="utf-8")
    for name, old, new in (("typo", "steps =", "stepz ="), ("type", "steps = 2", "steps = \"two\""),
                           ("heads", "n_heads = 2", "n_heads = 5"),
                           ("batch", "global_batch_size = 8", "global_batch_size = 9")):
        assert old in text, old
        pathlib.Path(f"{name}.toml").write_text(text.replace(old, new), encoding="utf-8")
    pathlib.Path("section.toml").write_text("[modle]\ndim = 3\n", encoding="utf-8")
    pathlib.Path("syntax.toml").write_text("[model]\ndim = = 3\n", encoding="utf-8")
    pathlib.Path("deep.toml").write_text(".".join("a" * 50_000) + " = 1\n", encoding="utf-8")
    pathlib.Path("device.toml").write_text('base = "/dev/zero"\n', encoding="utf-8")
    tokens = [index % 50 for index in range(600)]
    for name, width in (("good", 3), ("other", 4)):
        with h5py.File(f"{name}.h5", "w") as file:
            file["x"] = np.zeros((9, width), "f4")
            file["y"] = np.zeros(9, "f4")
            file["short"] = np.zeros(7, "i4")
            file["names"] = [b"name"] * 9
    pathlib.Path("cut.h5").write_bytes(pathlib.Path("good.h5").read_bytes()[:-200])
    runs.write_tokens("good.bin", tokens)
    runs.write_tokens("magic.bin", tokens, magic=7)
    runs.write_tokens("version.bin", tokens, version=9)
    runs.write_tokens("cut.bin", tokens, count=999)
    pathlib.Path("header.bin").write_bytes(b"short")
    runs.write_tokens("beyond.bin", [*tokens[:300], 50, *tokens[301:]])


def check_late():
    """A token beyond the vocabulary is found when it is read, in a run that has begun."""
    run = runs.train("gpt.toml", *TOKENS, 'data.files=["beyond.bin"]', "run.name=beyond", "training.steps=9", code=3)
    assert run.err == "tessera: beyond.bin: token number 300 is 50, beyond the vocabulary of 50\n", run.err


def check_divergence():
    """No config error: the run was fine until it was not. Exit code 5, and no checkpoint of it."""
    words = ["gpt.toml", "optimizer.lr=1e30", "lr_scheduler.warmup_steps=0", "training.steps=50"]
    for ranks in (0, 2):
        run = runs.train(*words, f"run.folder=diverged-{ranks}", ranks=ranks, code=5)
        assert 1 <= run.err.count("diverged at step ") <= max(ranks, 1), run.err  # each rank sees it, the first ends all
        assert not runs.checkpoints(f"diverged-{ranks}"), "a diverged run was saved"


with runs.folder():
    write_inputs()
    for case in CONFIG + LIMIT + WITHOUT_CHECKPOINT + SUBMIT:
        refused(*case)
    for case in DATA:
        refused(*case, code=3)
    for launcher in (["launch", "-n", "2", "-t", "1"], ["train"]):  # mpirun hands the code on
        err = runs.tessera(*launcher, "gpt.toml", 'data.files=["empty.txt"]', ranks=2 * (launcher == ["train"]), code=3).err
        assert err.count("empty.txt: the file is empty") == 1 + (launcher[0] == "launch"), err  # which says the first error last
    for variables, text in LAUNCHERS:
        refused(["train", "gpt.toml"], text, extra=variables)
    refused(["train", "gpt.toml", "optimizer.momentum=0.9"], "optimizer.momentum", ranks=2)
    experts = ["train", "gpt.toml", "model.moe_experts=4", "parallelism.expert_parallel_degree=2"]
    refused([*experts, "model.moe_experts=0"], "parallelism.expert_parallel_degree = 2: the model has no experts to share out", ranks=2)
    refused([*experts, "training.local_batch_size=1"],
            "training.local_batch_size = 1: micro-batches of 1 cannot be shared out evenly over 2 ranks of expert parallelism", ranks=2)
    check_late()
    check_divergence()
    runs.train("gpt.toml", ranks=2)
    runs.train("gpt.toml", *TOKENS, 'data.files=["good.bin"]', "run.name=tokens")
    refused(["generate", "runs/tokens"], "holds no tokenizer, its data were token ids: say --ids")
    refused(["generate", "runs/gpt", "--temperature", "cold"], "--temperature: 'cold' is no number of at least 0")
for failure in failures:
    print(f"FAILED: {failure}")
if failures:
    sys.exit(1)
print(f"{len(CONFIG + DATA + LIMIT + WITHOUT_CHECKPOINT + SUBMIT) + len(LAUNCHERS) + 6} mistakes are refused as they should be")
