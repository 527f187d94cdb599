"""The words of the command line: what is short for what, what is refused, and how."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from joblib import cpu_count
from runs import run_folder

from gpa_lightning import GPADataModule, GPARegressor
from gpa_lightning.commands.cli import main
from gpa_lightning.commands.compare import main as compare
from gpa_lightning.commands.export import main as export
from gpa_lightning.commands.predict import main as predict
from gpa_lightning.commands.program import main as named
from gpa_lightning.commands.run_names import short_name
from gpa_lightning.commands.study import main as study
from gpa_lightning.commands.train import train
from gpa_lightning.losses import evaluation_mse

SHORT = {
    "hidden_sizes": ("model", "64,32"),
    "dropout": ("model", "0.25"),
    "learning_rate": ("model", "0.01"),
    "penalty": ("model", "l2"),
    "penalty_weight": ("model", "0.5"),
    "batch_size": ("data", "full"),
    "patience": ("early_stopping", "7"),
    "accelerator": ("trainer", "cpu"),
    "devices": ("trainer", "1"),
    "strategy": ("trainer", "ddp"),
    "num_nodes": ("trainer", "1"),
    "precision": ("trainer", "bf16-mixed"),
    "max_epochs": ("trainer", "9"),
}


def parsed(flags, capsys):
    """What a command line means, as ``--print_config`` shows it."""
    with pytest.raises(SystemExit, match="0"):
        train([*flags, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


class TestShortFlags:
    @pytest.mark.parametrize("form", ["{} {}", "{}={}"])
    def test_they_are_the_long_ones(self, form, workplace, capsys):
        def flags(long):
            pairs = ((f"{owner}.{name}", value) for name, (owner, value) in SHORT.items())
            names = pairs if long else ((name, value) for name, (_, value) in SHORT.items())
            return [word for pair in names for word in form.format(*pair).split()]

        def dashed(words):
            return [f"--{word}" if word.partition("=")[0] in names else word for word in words]

        names = {*SHORT, *(f"{owner}.{name}" for name, (owner, _) in SHORT.items())}
        short = parsed(dashed(flags(long=False)), capsys)
        assert short == parsed(dashed(flags(long=True)), capsys)
        assert short["model"]["hidden_sizes"] == [64, 32]
        assert short["model"]["dropout"] == 0.25
        assert short["data"]["batch_size"] == "full"
        assert short["early_stopping"]["init_args"]["patience"] == 7
        assert short["trainer"]["max_epochs"] == 9

    @pytest.mark.parametrize("name", SHORT)
    def test_a_run_has_the_same_name(self, name):
        owner, value = SHORT[name]
        long = short_name([f"--{owner}.{name}", value])
        assert short_name([f"--{name}", value]) == short_name([f"--{name}={value}"]) == long

    def test_of_a_short_flag_and_a_long_one_the_last_names_the_run(self):
        assert short_name(["--dropout", "0.1", "--model.dropout", "0.2"]) == "dropout=0.2"

    @pytest.mark.parametrize(
        ("given", "sizes"),
        [("64,64", [64, 64]), ("64, 32,", [64, 32]), ("64", [64]), ("[8]", [8]), ("[]", [])],
    )
    def test_sizes_may_be_parted_by_commas(self, given, sizes, workplace, capsys):
        assert parsed(["--hidden_sizes", given], capsys)["model"]["hidden_sizes"] == sizes

    def test_a_value_that_looks_like_sizes_stays_as_it_is(self, workplace, capsys):
        assert parsed(["--name", "64,64"], capsys)["name"] == "64,64"


def refusal(program, flags, capsys):
    """The one line in which a command line is refused, before there is any run."""
    assert program(flags) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert not Path("lightning_logs").exists()
    return output.err.removeprefix("error: ").rstrip("\n")


CHOICES = "Choose from lecture-full-batch, lecture-mini-batch, recommended"


class TestMistakes:
    """What a learner mistypes: where it is, and the nearest right thing."""

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            ("--epochs 3", "there is no --epochs; did you mean --max_epochs?"),
            ("--epoch 3", "there is no --epoch; did you mean --max_epochs?"),
            ("--lr 0.01", "there is no --lr; did you mean --learning_rate?"),
            ("--dropuot 0.1", "there is no --dropuot; did you mean --dropout?"),
            ("--max-epochs=3", "there is no --max-epochs; did you mean --max_epochs?"),
            ("--model.hidden 64", "there is no --model.hidden; did you mean --hidden_sizes?"),
            ("--callbacks+=Timer", "there is no --callbacks+; did you mean --trainer.callbacks+?"),
            ("--xyzzy", "there is no --xyzzy; --help lists them"),
            ("dropout=0.1", "dropout=0.1 belongs to no flag; did you mean --dropout=0.1?"),
            ("--hidden_sizes 64 64", "64 belongs to no flag; flags begin with --"),
            ("--max_epochs", "--max_epochs needs a value"),
            ("--trainer.max_epochs", "--trainer.max_epochs needs a value"),
            ("--optimizer=", "--optimizer needs a value"),
            ("--config=", "--config needs a value"),
            ("--optimizer=Optimizer", "--optimizer needs the name of a class: --optimizer NAME"),
            ("--model.in_features 5", "--model.in_features follows the data; leave it out"),
        ],
    )
    def test_a_flag_that_there_is_not(self, flags, line, workplace, capsys):
        assert refusal(train, flags.split(), capsys) == line

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            ("--max_epochs x", "--max_epochs takes a whole number or null, not x"),
            ("--trainer.max_epochs x", "--trainer.max_epochs takes a whole number or null, not x"),
            ("--dropout x", "--dropout takes a number, not x"),
            ("--patience x", "--patience takes a whole number, not x"),
            ("--penalty L1", "--penalty takes l1, l2 or null, not L1; did you mean l1?"),
            ("--data.in_memory 3", "--data.in_memory takes true or false or null, not 3"),
            (
                "--batch_size ful",
                "--batch_size takes full, auto or a whole number, not ful; did you",
            ),
            ("--data.source synth", "--data.source takes auto, file, download or synthetic, not"),
            ("--precision bf17", "--precision takes 64, 32, 16, transformer-engine"),
            ("--hidden_sizes x", "--hidden_sizes takes a list in brackets, such as [1,2], not x"),
            ("--hidden_sizes [8,x]", "--hidden_sizes [8,x]: x is not a whole number"),
            ("--checkpoint.save_top_k x", "--checkpoint.save_top_k takes a whole number, not x"),
            ("--model 3", "--model takes the path of a YAML file, not 3; else give --model.NAME"),
            ("--optimizer Adam --optimizer.lr x", "--optimizer.lr takes a number, not x"),
            ("--lr_scheduler LambdaLR --lr_scheduler.lr_lambda x", "--lr_scheduler.lr_lambda take"),
        ],
    )
    def test_a_value_of_another_type(self, flags, line, workplace, capsys):
        assert refusal(train, flags.split(), capsys).startswith(line)

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            (
                "--trainer.callbacks+=EarlyStoping",
                "--trainer.callbacks EarlyStoping: there is no such callback; "
                "did you mean EarlyStopping?",
            ),
            (
                "--trainer.callbacks Overfitting",
                "--trainer.callbacks Overfitting: there is no such callback; "
                "did you mean OverfittingMonitor?",
            ),
            (
                "--trainer.callbacks+=gpa_lightning.callbacks.LossCurvs",
                "--trainer.callbacks gpa_lightning.callbacks.LossCurvs: "
                "gpa_lightning.callbacks has no LossCurvs; did you mean LossCurves?",
            ),
            (
                "--trainer.callbacks+=nowhere.EarlyStopping",
                "--trainer.callbacks nowhere.EarlyStopping: there is no module nowhere, in this "
                "folder or installed; did you mean EarlyStopping?",
            ),
            ("--trainer.callbacks+=os.path", "--trainer.callbacks os.path: that is no callback"),
            (
                "--trainer.callbacks+=Timer,ModelSummary",
                "--trainer.callbacks takes one name at a time, not Timer,ModelSummary",
            ),
            ("--trainer.callbacks+=ModelPruning", "ModelPruning needs --trainer.callbacks.pruni"),
            ("--optimizer Adamm", "--optimizer Adamm: there is no such optimizer; did you mean Ad"),
            (
                "--optimizer torch.optim.Adamm",
                "--optimizer torch.optim.Adamm: torch.optim has no Adamm; did you mean Adam?",
            ),
            ("--optimizer.lr 1", "--optimizer.lr needs --optimizer NAME before it, the class that"),
            (
                "--optimizer SGD --optimizer.momentun 1",
                "--optimizer.momentun: SGD has no such argument; did you mean momentum? Choose "
                "from dampening, lr, momentum, nesterov, weight_decay",
            ),
            (
                "--lr_scheduler CosineAnealing",
                "--lr_scheduler CosineAnealing: there is no such lr_scheduler; "
                "did you mean CosineAnnealingLR?",
            ),
            ("--lr_scheduler StepLR", "StepLR needs --lr_scheduler.step_size"),
            (
                "--early_stopping nul",
                "--early_stopping nul: there is no such early_stopping; did you mean null? "
                "Choose from EarlyStopping, null",
            ),
            ("--early_stopping null --patience 3", "EarlyStopping needs --early_stopping.monitor"),
            ("--trainer.plugins nope", "--trainer.plugins nope: there is no such plugin; choose"),
        ],
    )
    def test_a_class_that_there_is_not(self, flags, line, workplace, capsys):
        assert refusal(train, flags.split(), capsys).startswith(line)

    def test_classes_to_choose_from_can_all_be_taken(self, workplace, capsys):
        line = refusal(train, ["--optimizer", "xyz"], capsys)
        choices = line.partition("choose from ")[2].split(", ")
        assert {"Adam", "SGD"} <= {*choices}
        assert "Optimizer" not in choices

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("model:\n  droput: 0.1", "my.yaml: there is no model.droput; did you mean model.drop"),
            ("dropout: 0.1", "my.yaml: there is no dropout; did you mean model.dropout?"),
            ("model:\n  dropout: x", "my.yaml: model.dropout takes a number, not x"),
            (
                "trainer:\n  callbacks:\n  - class_path: EarlyStoping",
                "my.yaml: trainer.callbacks EarlyStoping: there is no such callback; did you mean",
            ),
            (
                "optimizer:\n  class_path: SGD\n  init_args: {lrr: 1}",
                "my.yaml: optimizer.lrr: SGD has no such argument; did you mean lr?",
            ),
            ("model:\n  dropout: [", "my.yaml: while parsing a flow node did not find expected no"),
            ("a,b\n1,2\n", "my.yaml: not a file of flags, each a key of YAML"),
        ],
    )
    def test_a_file_of_flags(self, text, line, workplace, capsys):
        Path("my.yaml").write_text(text)
        assert refusal(train, ["--config", "my.yaml"], capsys).startswith(line)

    def test_a_recipe(self, workplace, capsys):
        line = "--config recommnded: there is no such recipe or file; did you mean recommended? "
        assert refusal(train, ["--config", "recommnded"], capsys) == line + CHOICES
        assert refusal(train, ["--config=nope.yaml"], capsys).endswith(CHOICES.lower())

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            ("--accelerator cpuu", "--accelerator cpuu: there is no such accelerator; did you mea"),
            ("--strategy ddpp", "--strategy ddpp: there is no such strategy; did you mean ddp?"),
            ("--accelerator tpu", "Requirement 'torch_xla>=1.13' not met. HINT: Try running "),
            ("--learning_rate -1", "--learning_rate must not be negative, got -1.0"),
            ("--model.dropout 1", "--model.dropout must be in [0, 1), got 1.0"),
            ("--optimizer Adam --optimizer.lr -1", "Adam: Invalid learning rate: -1.0"),
            ("--lr_scheduler OneCycleLR --lr_scheduler.max_lr 1", "OneCycleLR: You must define ei"),
            ("--early_stopping.mode maxx", "EarlyStopping: `mode` can be min, max, got maxx"),
            (  # the third of the types that the flag takes
                "--trainer.plugins+=lightning.pytorch.plugins.XLACheckpointIO",
                "XLACheckpointIO: Requirement 'torch_xla>=1.13' not met.",
            ),
            ("--fast_training.steps_per_execution 0", "FastTraining: steps_per_execution must be"),
        ],
    )
    def test_what_cannot_be_made(self, flags, line, table, workplace, capsys):
        given = ["--data.path", str(table), *flags.split()]
        assert refusal(train, given, capsys).startswith(line)

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            ("--trainer.callbacks+=BackboneFinetuning", "BackboneFinetuning: 'GPARegressor' objec"),
            ("--trainer.callbacks+=BaseFinetuning", "BaseFinetuning: NotImplementedError"),
            ("--lr_scheduler StepLR --lr_scheduler.step_size 0", "StepLR: integer modulo by zero"),
            (
                "--checkpoint.monitor val_los",
                "ModelCheckpoint: no metric val_los is logged; did you mean val_loss?",
            ),
            (
                "--early_stopping.monitor val_los",
                "EarlyStopping: no metric val_los is logged; did you mean val_loss?",
            ),
        ],
    )
    def test_what_fails_in_the_training(self, flags, line, table, workplace, capsys):
        given = ["--data.path", str(table), "--hidden_sizes=8", "--max_epochs=1", *flags.split()]
        assert train([*given, "--accelerator", "cpu"]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(f"error: {line}")

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            ("fti", "there is no fti; did you mean fit? Choose from fit, predict, test, validate"),
            ("fit --epochs 3", "there is no --epochs; did you mean --max_epochs?"),
            ("fit --dropout x", "--dropout takes a number, not x"),
            (
                "fit --optimizer adam",
                "--optimizer adam: there is no such optimizer; did you mean A",
            ),
            ("fit --config recommnded", "--config recommnded: there is no such recipe or file; d"),
            ("test --ckptpath last", "there is no --ckptpath; did you mean --ckpt_path?"),
        ],
    )
    def test_the_subcommands_say_the_same(self, flags, line, workplace, capsys):
        assert refusal(main, flags.split(), capsys).startswith(line)

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            (
                "early-stoping",
                "there is no early-stoping; did you mean early-stopping? Choose from",
            ),
            ("polynomial --quik", "there is no --quik; did you mean --quick?"),
            ("polynomial --seeds 0 x", "--seeds takes a whole number, not x"),
            ("polynomial --n_jobs x", "--n_jobs takes -1 or a whole number above 0, not x"),
            ("polynomial --n_jobs 0", "--n_jobs takes -1 or a whole number above 0, not 0"),
            ("polynomial --seeds -1", "--seeds takes a whole number from 0 on, not -1"),
            ("polynomial --seeds", "--seeds needs a value"),
            ("--quick", "name must be given; --help tells how"),
            ("polynomial --data.sourc3 file", "there is no --data.sourc3; did you mean --data.so"),
        ],
    )
    def test_the_studies_say_the_same(self, flags, line, workplace, capsys):
        assert refusal(study, flags.split(), capsys).startswith(line)

    @pytest.mark.parametrize(
        ("args", "line"),
        [
            (
                ["", "--epochs 3"],
                'setting "--epochs 3": there is no --epochs; did you mean --max_epochs?',
            ),
            (["", "--dropout x"], 'setting "--dropout x": --dropout takes a number, not x'),
            (["", "--seds", "2"], 'setting "": there is no --seds; did you mean --seeds?'),
            (
                ["", "--seed_everything", "3"],
                'setting "": --seed_everything: --seeds gives the seeds',
            ),
            (
                ["--seeds 2"],
                'setting "--seeds 2": --seeds is for all settings, and goes behind them',
            ),
            (
                ["", "--ckpt_path best"],
                'setting "--ckpt_path best": --ckpt_path: each run starts anew; leave it out',
            ),
            (
                ["", "--checkpoint.dirpath x"],
                'setting "--checkpoint.dirpath x": --checkpoint.dirpath: each run has its own; '
                "leave it out",
            ),
            (["", "--seeds", "x"], "--seeds takes a whole number above 0, not x"),
            (["", "--n_jobs", "-2"], "--n_jobs takes -1 or a whole number above 0, not -2"),
            (["", "--output"], "--output needs a value"),
        ],
    )
    def test_a_comparison_says_the_same(self, args, line, table, workplace, capsys, monkeypatch):
        monkeypatch.setenv("GPA_CSV", str(table))  # the first setting is read before the second
        assert refusal(compare, args, capsys) == line

    @pytest.mark.parametrize(
        "program",
        [predict, export, lambda flags: named(["predict", *flags])],
        ids=["predict", "export", "gpa-lightning"],
    )
    def test_what_makes_a_file_of_a_checkpoint_says_the_same(self, program, workplace, capsys):
        def line(flags):
            return refusal(program, flags.split(), capsys)

        assert line("--ckptpath x") == "there is no --ckptpath; did you mean --ckpt_path?"
        assert line("--outptu=x") == "there is no --outptu; did you mean --output?"
        assert line("--config x") == "there is no --config; --help lists them"
        assert line("x --output x") == "x belongs to no flag; flags begin with --"
        assert line("--ckpt_path x --output") == "--output needs a value"
        missing = line("--output x")
        assert missing.startswith("--ckpt_path, --")
        assert missing.endswith(" must be given; --help tells how")
        assert "--output" in line("--ckpt_path x")

    def test_their_choices(self, workplace, capsys):
        line = refusal(predict, ["--accelerator", "cpuu"], capsys)
        assert line == "--accelerator takes auto, cpu or gpu, not cpuu; did you mean cpu?"
        line = refusal(export, ["--format", "onx"], capsys)
        assert line == "--format takes onnx or pt2, not onx; did you mean onnx?"


class TestUsersCallbacks:
    """Callbacks from a file in the current folder, and this project's by their names alone."""

    @pytest.fixture
    def module(self, workplace, monkeypatch):
        """Write a module in the current folder, which is nowhere else to be found."""
        monkeypatch.setattr(sys, "path", list(sys.path))

        def write(text):
            Path("my_callbacks.py").write_text(text)
            monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)

        yield write
        sys.modules.pop("my_callbacks", None)

    def test_it_is_found_and_has_its_flags(self, module, table, capsys):
        module(
            "from lightning.pytorch import Callback\n"
            "class Mine(Callback):\n"
            "    def __init__(self, word: str):\n"
            "        self.word = word\n"
            "    def on_fit_start(self, trainer, pl_module):\n"
            "        print(f'mine: {self.word}')\n"
        )
        flags = ["--trainer.callbacks+=my_callbacks.Mine", "--trainer.callbacks.word=hello"]
        flags += ["--data.path", str(table), "--hidden_sizes=8", "--max_epochs=1"]
        assert train([*flags, "--accelerator=cpu"]) == 0
        assert "mine: hello" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("class Mine(:\n", "my_callbacks.py, line 1: "),
            ("\n1 / 0\n", "my_callbacks.py, line 2: ZeroDivisionError: division by zero"),
            ("import nowhere\n", "my_callbacks.py, line 1: ModuleNotFoundError: No module named"),
            ("Mime = 3\n", "my_callbacks has no Mine; did you mean Mime?"),
        ],
    )
    def test_what_is_wrong_with_the_file(self, module, text, line, capsys):
        module(text)
        error = refusal(train, ["--trainer.callbacks+=my_callbacks.Mine"], capsys)
        assert error.startswith(f"--trainer.callbacks my_callbacks.Mine: {line}")

    def test_this_projects_own_go_by_their_names(self, workplace, capsys):
        named = parsed(["--trainer.callbacks+=OverfittingMonitor"], capsys)
        Path("my.yaml").write_text("trainer:\n  callbacks:\n  - class_path: WeightNorms\n")
        in_file = parsed(["--config", "my.yaml"], capsys)
        for config, name in ((named, "OverfittingMonitor"), (in_file, "WeightNorms")):
            last = config["trainer"]["callbacks"][-1]
            assert last["class_path"] == f"gpa_lightning.callbacks.{name}"


class TestHelp:
    def text(self, flags, capsys):
        with pytest.raises(SystemExit, match="0"):
            train(flags)
        return capsys.readouterr().out

    def test_it_has_this_projects_flags_and_fits_on_a_few_screens(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        text = self.text(["--help"], capsys)
        assert len(text.splitlines()) < 180
        for flag in ("--dropout, --model.dropout", "--batch_size, --data.batch_size", "--patience"):
            assert flag in text
        assert "--trainer.gradient_clip_val" not in text
        assert "--help trainer" in text

    def test_it_shows_lightnings_flags_where_they_are_asked_for(self, capsys):
        text = self.text(["--help", "trainer"], capsys)
        assert "--trainer.gradient_clip_val" in text
        assert "--max_epochs, --trainer.max_epochs" in text
        assert "--model.dropout" not in text

    def test_it_shows_one_group(self, capsys):
        text = self.text(["--help", "data"], capsys)
        assert "--data.path" in text
        assert "--model.dropout" not in text

    def test_there_is_no_help_on_something_else(self, workplace, capsys):
        line = refusal(train, ["--help", "trainr"], capsys)
        assert line.startswith("--help trainr: no flag begins so; did you mean trainer?")

    @pytest.mark.parametrize(
        ("flag", "defaults"),
        [
            ("early_stopping", {"monitor": "val_loss", "patience": "10"}),
            ("checkpoint", {"monitor": "val_loss", "save_last": "True"}),
        ],
    )
    def test_a_class_has_the_defaults_that_it_has_here(self, flag, defaults, capsys):
        text = " ".join(self.text([f"--{flag}.help"], capsys).split())
        for name, default in defaults.items():
            about = text.rpartition(f" --{flag}.{name} {name.upper()} ")[2].partition(" --")[0]
            assert f"default: {default})" in about, name

    def test_a_subcommand_has_the_same(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--help"])
        text = capsys.readouterr().out
        assert "--dropout, --model.dropout" in text
        assert "--trainer.gradient_clip_val" not in text
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        assert "validate" in capsys.readouterr().out


class TestEffects:
    """A flag does something, or is refused, or warned of."""

    @pytest.fixture
    def small(self, table, workplace):
        """Flags of a short run."""
        flags = ["--hidden_sizes=8", "--max_epochs=1", "--accelerator=cpu"]
        return ["--data.path", str(table), *flags]

    def rate(self, flags):
        assert train(flags) == 0
        checkpoint = torch.load(run_folder(0) / "checkpoints/last.ckpt", weights_only=True)
        (group,) = checkpoint["optimizer_states"][0]["param_groups"]
        return group["lr"]

    @pytest.mark.parametrize(
        ("flags", "rate", "warning"),
        [
            ("--optimizer Adam --learning_rate 0.05", 0.05, ""),
            ("--optimizer SGD --model.learning_rate 0.002", 0.002, ""),
            ("--optimizer Adadelta --learning_rate 0.001", 0.001, ""),  # the model's default, said
            ("--optimizer Adadelta", 1.0, ""),
            ("--optimizer SGD --optimizer.lr 0.03", 0.03, ""),
            (
                "--optimizer Adam --optimizer.lr 0.001 --learning_rate 0.05",
                0.001,
                "warning: --learning_rate 0.05 changes nothing, since --optimizer.lr is 0.001\n",
            ),
        ],
    )
    def test_the_learning_rate_is_that_of_the_optimiser(self, flags, rate, warning, small, capsys):
        assert self.rate([*small, *flags.split()]) == rate
        assert capsys.readouterr().err == warning

    def test_more_processes_than_cores_are_warned_of(self, small, capsys):
        cores = cpu_count()
        flags = ["--devices", str(cores + 1), "--ckpt_path", "nowhere.ckpt"]  # where it ends
        assert train([*small, *flags]) == 2
        warning, _ = capsys.readouterr().err.splitlines()
        assert warning == (
            f"warning: --devices {cores + 1}: more processes than the machine has cores, "
            f"which are {cores}"
        )

    def test_a_saved_configuration_means_the_same(self, small, capsys):
        train([*small, "--optimizer", "Adadelta"])
        config = run_folder(0) / "config.yaml"
        config.rename("mine.yaml")
        shutil.rmtree("lightning_logs")
        assert self.rate(["--config", "mine.yaml"]) == 1.0
        assert capsys.readouterr().err == ""

    def test_a_weight_without_a_penalty_is_refused(self, small, capsys):
        line = refusal(train, [*small, "--penalty_weight", "0.1"], capsys)
        assert line == "--penalty_weight 0.1 adds nothing without --penalty l1 or --penalty l2"
        Path("my.yaml").write_text("model: {penalty: l1, penalty_weight: 0.1}")
        config = parsed(["--config", "my.yaml", "--penalty", "null"], capsys)
        assert config["model"]["penalty_weight"] == 0.1  # which is switched off on purpose

    @pytest.mark.parametrize(
        ("flags", "line"),
        [
            (
                "--trainer.gradient_clip_val -1",
                "--trainer.gradient_clip_val must not be negative, got -1",
            ),
            ("--devices 1000", "--devices 1000: so many processes would stop a machine of "),
            (
                "--data.num_workers 999",
                "--data.num_workers 999: so many processes would stop a mac",
            ),
            ("--patience -1", "--patience must not be negative, got -1"),
            ("--trainer.min_steps -1", "--trainer.min_steps must not be negative, got -1"),
            ("--trainer.min_epochs -1", "--trainer.min_epochs must not be negative, got -1"),
            ("--trainer.log_every_n_steps -1", "--trainer.log_every_n_steps must not be negative"),
            ("--trainer.profiler xla", "--trainer.profiler xla needs torch_xla, which is not inst"),
            ("--name a/b", "--name a/b: names one folder, without a slash"),
            ("--penalty l2 --penalty_weight -1", "--penalty_weight must not be negative, got -1.0"),
            (
                "--trainer.logger Logger",
                "--trainer.logger Logger: that class is abstract; name one that is derived from it",
            ),
            (
                "--stop_on_divergence.check_every_n_steps 0",
                "StopOnDivergence: check_every_n_steps must be at least 1, got 0",
            ),
            (
                "--checkpoint.train_time_interval 1",
                "--checkpoint.train_time_interval takes a time, such as 1:30:00 or null, not 1",
            ),
        ],
    )
    def test_refused(self, flags, line, small, capsys):
        assert refusal(train, [*small, *flags.split()], capsys).startswith(line)

    def test_runs_lie_in_the_default_root_dir(self, small, capsys):
        assert train([*small, "--trainer.default_root_dir", "elsewhere", "--name", "one"]) == 0
        assert not Path("lightning_logs").exists()
        run = Path("elsewhere/lightning_logs/version_0-one")
        assert (run / "checkpoints/last.ckpt").is_file()
        assert "make tensorboard" not in capsys.readouterr().out
        flags = ["--trainer.default_root_dir", "elsewhere", "--ckpt_path", "last"]
        assert train([*small, *flags, "--max_epochs", "2"]) == 0
        assert [path.name for path in run.parent.iterdir()] == [run.name]

    def test_a_loggers_own_folder_holds(self, small):
        flags = ["--trainer.default_root_dir", "a", "--trainer.logger.save_dir", "b"]
        assert train([*small, *flags]) == 0
        assert Path("b").is_dir()
        assert not Path("a").exists()

    def test_warned_of(self, small, capsys):
        flags = ["--name", "x", "--trainer.logger=false", "--trainer.gradient_clip_algorithm=norm"]
        assert train([*small, *flags]) == 0
        name, algorithm = sorted(capsys.readouterr().err.splitlines())
        assert name == "warning: --name x changes nothing: no logger makes a folder of that name"
        assert algorithm.endswith("norm changes nothing without --trainer.gradient_clip_val")

    def test_a_name_for_a_run_that_has_one(self, small, capsys):
        assert train([*small, "--name", "x", "--trainer.logger.version", "mine"]) == 0
        warning = "warning: --name x changes nothing"
        assert capsys.readouterr().err == f"{warning} beside --trainer.logger.version\n"
        assert train([*small, "--name", "x", "--ckpt_path", "last", "--max_epochs", "2"]) == 0
        assert capsys.readouterr().err == f"{warning}: the run goes on in mine\n"
        assert [path.name for path in Path("lightning_logs").iterdir()] == ["mine"]

    def test_flags_of_the_trainer_that_are_idle_here(self, small, capsys):
        flags = "--trainer.limit_train_batches 0 --trainer.limit_predict_batches 1 --penalty l2"
        flags += " --penalty_weight 0 --trainer.min_epochs 5 --trainer.model_registry mine"
        flags += " --trainer.use_distributed_sampler false --stop_on_divergence.monitor val_los"
        assert train([*small, *flags.split()]) == 0
        output = capsys.readouterr()
        assert sorted(output.err.splitlines()) == [
            "warning: --penalty l2 adds nothing with --penalty_weight 0",
            "warning: --trainer.limit_predict_batches 1 changes nothing: predictions are made by "
            "predict.py, of all rows",
            "warning: --trainer.limit_train_batches 0 lets the network learn from nothing",
            "warning: --trainer.min_epochs 5 changes nothing beyond max_epochs, which is 1",
            "warning: --trainer.model_registry mine changes nothing: nothing is uploaded",
            "warning: --trainer.use_distributed_sampler false changes nothing: the data deal their "
            "rows out to processes by themselves",
        ]

    def test_a_least_number_of_epochs_counts_where_there_is_no_limit(self, small, capsys):
        flags = "--max_epochs -1 --trainer.min_epochs 2 --trainer.max_steps 9"
        assert train([*small, *flags.split()]) == 0
        assert capsys.readouterr().err == ""

    def test_a_metric_that_nothing_logs(self, small, capsys):
        flags = "--stop_on_divergence.monitor val_los --early_stopping.monitor val_mea"
        assert train([*small, *flags.split(), "--early_stopping.strict", "false"]) == 0
        first, second = sorted(capsys.readouterr().err.splitlines())
        assert first.startswith("warning: EarlyStopping: no metric val_mea is logged; did you mean")
        assert second.startswith("warning: StopOnDivergence: no metric val_los is logged; did you")

    def test_a_best_checkpoint_that_is_not_kept(self, small, capsys):
        assert train([*small, "--checkpoint.every_n_epochs", "0"]) == 0
        lines = capsys.readouterr().out.splitlines()
        (best,) = (line.split(maxsplit=2)[2] for line in lines if line.startswith("best epoch"))
        assert (
            best == "not kept: no checkpoint was saved by val_loss, see --checkpoint and --trainer"
        )

    def test_a_cache_without_streaming(self, small, table, caplog):
        GPADataModule(path=str(table), in_memory=False, cache_dir="tables").prepare_data()
        assert "changes nothing" not in caplog.text
        assert train([*small, "--data.cache_dir", "tables"]) == 0
        line = "--data.cache_dir tables changes nothing: the table is taken into memory"
        assert caplog.text.count(line) == 1

    def test_what_barebones_leaves_out(self, small, capsys):
        flags = "--trainer.barebones true --patience 3 --checkpoint null --dropout 0.1"
        assert train([*small, *flags.split()]) == 0
        warnings = [each for each in capsys.readouterr().err.splitlines() if "warning: --" in each]
        assert warnings == ["warning: --patience 3 changes nothing with --trainer.barebones true"]

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            ("--early_stopping.verbose true", "Metric val_loss improved. New best score"),
            ("--trainer.profiler simple", "Profiler Report"),
        ],
    )
    def test_what_talks_is_heard(self, flags, said, small, caplog):
        assert train([*small, *flags.split()]) == 0
        assert said in caplog.text


class TestSummary:
    """It names what was trained, and the losses of averaged weights."""

    @pytest.fixture
    def summary(self, table, workplace, capsys):
        """Train shortly, and return the lines of the summary by their labels."""

        def run(*flags):
            small = ["--data.path", str(table), "--hidden_sizes=8", "--accelerator=cpu"]
            assert train([*small, *flags]) == 0
            lines = capsys.readouterr().out.partition("\nSummary\n")[2].splitlines()
            return [(line[:22].strip(), line[22:].strip()) for line in lines]

        return run

    def test_the_defaults(self, summary):
        lines = dict(summary("--max_epochs", "1"))
        assert lines["optimiser"] == "Adam, learning rate 0.001"
        assert lines["batch size"] == "100"
        assert lines["penalty"] == "none"

    def test_what_is_not_the_default(self, summary, table):
        Path("my.yaml").write_text("model: {dropout: 0.1, penalty: l2}\nearly_stopping: null\n")
        lines = dict(
            summary(
                *("--config", "my.yaml", "--batch_size", "50", "--max_epochs", "2"),
                *("--optimizer", "SGD", "--optimizer.momentum", "0.9", "--learning_rate", "0.01"),
                *("--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"),
                *("--trainer.accumulate_grad_batches", "2", "--data.test_size", "0.25"),
                *("--trainer.callbacks+=WeightNorms", "--checkpoint.save_top_k", "1"),
            )
        )
        assert lines["optimiser"] == "SGD, learning rate 0.01, schedule StepLR"
        assert lines["batch size"] == "100 (50 rows * 2 batches a step)"
        assert lines["penalty"] == "l2, weight 0.0001"
        said = {
            *("--dropout 0.1", "--penalty l2", "--early_stopping null", "--hidden_sizes [8]"),
            *("--batch_size 50", "--max_epochs 2", "--optimizer SGD", "--optimizer.momentum 0.9"),
            *("--learning_rate 0.01", "--lr_scheduler StepLR", "--lr_scheduler.step_size 1"),
            *("--trainer.accumulate_grad_batches 2", "--data.test_size 0.25"),
            *("--trainer.callbacks+=WeightNorms", "--accelerator cpu", f"--data.path {table}"),
        }
        flags = lines["flags"].replace(" --", "\n--").splitlines()
        assert set(flags) == said  # save_top_k is 1 by default, and a file's name trains nothing

    def test_another_class_is_told_with_all_its_arguments(self, summary):
        flags = ["--checkpoint ModelCheckpoint", "--checkpoint.monitor val_loss", "--max_epochs 1"]
        said = dict(summary(*" ".join(flags).split()))["flags"]
        assert {*flags} <= {*said.replace(" --", "\n--").splitlines()}

    def test_a_list_that_was_emptied_and_a_dictionary(self, summary):
        lines = dict(summary("--trainer.callbacks", "null", "--max_epochs", "1"))
        assert "--trainer.callbacks null" in lines["flags"]
        scheduler = "--trainer.callbacks+=GradientAccumulationScheduler"
        flags = [scheduler, "--trainer.callbacks.scheduling", "{0: 2}", "--max_epochs", "1"]
        lines = dict(summary(*flags))
        assert '--trainer.callbacks.scheduling {"0":2}' in lines["flags"]
        assert lines["batch size"] == "200 (100 rows * 2 batches a step)"

    def test_the_flags_can_be_given_again(self, summary, capsys):
        first = dict(summary("--dropout", "0.5", "--max_epochs", "2", "--patience", "4"))
        assert train(first["flags"].split()) == 0
        again = capsys.readouterr().out
        assert f"test MSE               {first['test MSE']}" in again

    def test_averaged_weights_that_no_checkpoint_would_have(self, summary):
        swa = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1")
        lines = summary(*swa, "--trainer.callbacks.swa_epoch_start=1", "--max_epochs", "3")
        tests = [text for label, text in lines if label == "test MSE"]
        best, averaged = (float(text.split()[0]) for text in tests)
        assert tests[1].endswith("(averaged weights)")
        assert best != averaged
        # they are what is kept, and what a prediction would use
        path = dict(lines)["averaged weights"]
        model = GPARegressor.load_from_checkpoint(path, weights_only=True)
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["callbacks"]["StochasticWeightAveraging"]["n_averaged"] == 3
        data = GPADataModule(path=dict(lines)["data"].removeprefix("file: "), seed=0)
        data.setup()
        test = data.dataset("test").tensors
        assert evaluation_mse(model.network, *test) == pytest.approx(averaged, abs=1e-4)

    def test_an_average_without_checkpoints(self, summary):
        swa = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1")
        flags = "--trainer.callbacks.swa_epoch_start=1 --max_epochs 3 --checkpoint null"
        lines = summary(*swa, *flags.split())
        assert dict(lines)["averaged weights"] == "in no checkpoint"
        assert [text[-18:] for label, text in lines if label == "test MSE"][
            1
        ] == "(averaged weights)"

    def test_an_average_that_never_began(self, summary):
        swa = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1")
        lines = dict(summary(*swa, "--patience", "1", "--learning_rate", "1", "--max_epochs", "50"))
        assert lines["averaged weights"].startswith("none: from epoch 39 to epoch 49 they would")

    def test_an_average_that_never_ended(self, summary):
        swa = ("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1")
        flags = "--trainer.callbacks.swa_epoch_start=1 --max_epochs 6 --trainer.max_steps 20"
        lines = summary(*swa, *flags.split())  # the fifth of six epochs
        assert dict(lines)["averaged weights"].startswith("none: from epoch 0 to epoch 5 they wou")
        assert len([label for label, _ in lines if label == "test MSE"]) == 1

    def test_averaged_weights_that_are_kept_all_along(self, summary):
        ema = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9")
        lines = dict(summary(*ema, "--max_epochs", "1"))
        assert lines["test MSE"].endswith("(best val_loss, weights averaged by EMAWeightAveraging)")
