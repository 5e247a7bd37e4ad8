"""Pools, datasets and executors that each break one rule of the contract, and one of each that breaks none."""

import json
import os
import subprocess
import sys
import time

from acutance.dataset import Dataset, Split
from acutance.errors import UserError
from acutance.pool import ModelEntry, ModelPool
from acutance.run.executors import Executor
from acutance.spec import Spec


class NoSpec(Spec):
    """No settings."""


class SoundPool(ModelPool[NoSpec]):
    """Linear models."""

    name = "sound_pool"

    def entries(self, spec):
        return [ModelEntry(id=f"m{i}", architecture="linear", train_set="toy", attributes={"i": i}) for i in range(3)]

    def load(self, entry, spec):
        import torch
        from torch import nn

        model = nn.Linear(4, 3)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1.0 + entry.attributes["i"])
        return model.eval()


class NoEntries(SoundPool):
    """Has no models."""

    def entries(self, spec):
        return []


class SameIds(SoundPool):
    """Two models of one name."""

    def entries(self, spec):
        return [*super().entries(spec), super().entries(spec)[0]]


class SamePaths(SoundPool):
    """Two models in one file."""

    def entries(self, spec):
        return [entry.model_copy(update={"path": "/one/file"}) for entry in super().entries(spec)]


class InfiniteAttribute(SoundPool):
    """An attribute is not finite."""

    def entries(self, spec):
        return [entry.model_copy(update={"attributes": {"i": float("inf")}}) for entry in super().entries(spec)]


class OtherEveryTime(SoundPool):
    """The clock is among the attributes."""

    def entries(self, spec):
        return [entry.model_copy(update={"run": str(time.time_ns())}) for entry in super().entries(spec)]


class OtherElsewhere(SoundPool):
    """The process is among the attributes."""

    def entries(self, spec):
        return [entry.model_copy(update={"run": str(os.getpid())}) for entry in super().entries(spec)]


class HeavyEntries(SoundPool):
    """Listing needs pandas."""

    def entries(self, spec):
        import pandas

        return super().entries(spec) if pandas else []


class MissingForEver(SoundPool):
    """Building does not help."""

    def missing(self, entries, spec):
        return list(entries)

    def build(self, entry, spec, threads=None):
        return {}


class CannotBuild(SoundPool):
    """Names models as missing and cannot make them."""

    def missing(self, entries, spec):
        return list(entries)


class MissingStrangers(SoundPool):
    """Misses what it was not asked about."""

    def missing(self, entries, spec):
        return [ModelEntry(id="stranger", architecture="linear")]


class CannotLoad(SoundPool):
    """Files are gone."""

    def load(self, entry, spec):
        raise FileNotFoundError("gone")


class TrainingMode(SoundPool):
    """Models are in training mode."""

    def load(self, entry, spec):
        return super().load(entry, spec).train()


class NotFinite(SoundPool):
    """A weight is NaN."""

    def load(self, entry, spec):
        model = super().load(entry, spec)
        model.weight.data[0, 0] = float("nan")
        return model


class StateDict(SoundPool):
    """Gives weights instead of a model."""

    def load(self, entry, spec):
        return super().load(entry, spec).state_dict()


class RandomWeights(SoundPool):
    """Weights are drawn at every load."""

    def load(self, entry, spec):
        from torch import nn

        return nn.Linear(4, 3).eval()


class NoFile(SoundPool):
    """The path leads nowhere."""

    def entries(self, spec):
        return [entry.model_copy(update={"path": f"/no/such/{entry.id}"}) for entry in super().entries(spec)]


class OtherStart(SoundPool):
    """The initial model has another shape."""

    def initial(self, entry, spec):
        from torch import nn

        return nn.Linear(4, 2)


class DropsExamples(SoundPool):
    """Preprocessing loses an example."""

    def preprocess(self, entry, spec):
        return lambda inputs: inputs[1:]


POOL_FAULTS = [
    (NoEntries, "entries_are_sound", "entries() gave no models"),
    (SameIds, "entries_are_sound", "the ids m0 are used more than once"),
    (SamePaths, "entries_are_sound", "two entries lie in the same file"),
    (InfiniteAttribute, "entries_are_sound", "attribute 'i' of 'm0' is inf: write None"),
    (HeavyEntries, "entries_are_cheap", "entries() and missing() import numpy, pandas: a study"),
    (OtherEveryTime, "entries_are_stable", "two calls of entries() gave different models"),
    (OtherElsewhere, "entries_are_stable", "another process listed other models: run is"),
    (MissingForEver, "missing_models_can_be_made", "'m0' is still missing after build()"),
    (CannotBuild, "missing_models_can_be_made", "a pool that calls models missing must make them"),
    (MissingStrangers, "missing_models_can_be_made", "missing() names stranger, which it was not asked about"),
    (CannotLoad, "models_load", "load raised FileNotFoundError: gone"),
    (TrainingMode, "models_load", "return model.eval()"),
    (NotFinite, "models_load", "parameter 'weight' of 'm0' is not finite"),
    (StateDict, "models_load", "return an nn.Module"),
    (RandomWeights, "loading_again_gives_the_same_model", "loading 'm0' twice gave different weights"),
    (NoFile, "files_exist", "its path /no/such/m0 does not exist"),
    (OtherStart, "initial_weights_fit", "initial('m0') does not fit the model at weight, bias"),
    (DropsExamples, "preprocess_keeps_the_examples", "made 3 examples of 4"),
]


class SoundData(Dataset[NoSpec]):
    """Gaussian points."""

    name = "sound_data"
    splits = ("train", "test")

    def open(self, split):
        import torch

        if split not in self.splits:
            raise UserError(f"there is no split '{split}'")
        g = torch.Generator().manual_seed(self.splits.index(split))
        return Split(torch.randn(20, 4, generator=g), torch.randint(0, 3, (20,), generator=g))


class Changed(SoundData):
    """Opens as the sound one does, with something changed."""

    def change(self, inputs, targets, split):
        return inputs, targets

    def open(self, split):
        found = super().open(split)
        return Split(*self.change(found.inputs, found.targets, split))


class SplitTwice(SoundData):
    """Names a split twice."""

    splits = ("train", "test", "test")


class SplitsAsList(SoundData):
    """Splits is no tuple."""

    splits = ["train", "test"]


class CannotOpen(SoundData):
    """A split that is named is not there."""

    splits = ("train", "test", "ood")

    def open(self, split):
        if split == "ood":
            raise FileNotFoundError("ood.npz")
        return super().open(split)


class AsPair(SoundData):
    """Gives a pair."""

    def open(self, split):
        found = super().open(split)
        return found.inputs, found.targets


class Unequal(Changed):
    """Has a target too few."""

    def change(self, inputs, targets, split):
        return inputs, targets[1:]


class BooleanTargets(Changed):
    """Targets are booleans."""

    def change(self, inputs, targets, split):
        return inputs, targets > 1


class OneHot(Changed):
    """Targets are one-hot."""

    def change(self, inputs, targets, split):
        from torch import nn

        return inputs, nn.functional.one_hot(targets, 3)


class MoreClasses(Changed):
    """The test set has classes of its own."""

    def change(self, inputs, targets, split):
        return inputs, targets + (2 if split == "test" else 0)


class BelowZero(Changed):
    """Unlabelled points are -1."""

    def change(self, inputs, targets, split):
        return inputs, targets - 1


class NanInputs(Changed):
    """A pixel is missing."""

    def change(self, inputs, targets, split):
        inputs[0, 0] = float("nan")
        return inputs, targets


class Shuffled(Changed):
    """Every opening shuffles."""

    def change(self, inputs, targets, split):
        import torch

        order = torch.randperm(len(targets))
        return inputs[order], targets[order]


class SharedTensor(SoundData):
    """Normalizes in place what another split was given."""

    def __init__(self, spec=None):
        import torch

        super().__init__(spec)
        self.all = torch.arange(80.0).view(20, 4)

    def open(self, split):
        targets = super().open(split).targets
        self.all += self.splits.index(split)
        return Split(self.all, targets)


class OneNumber(SoundData):
    """The score is a mean."""

    def open(self, split):
        found = super().open(split)
        return Split(found.inputs, found.targets, lambda f, y: (f.argmax(1) != y).float().mean())


class Soft(SoundData):
    """The score is a probability."""

    def open(self, split):
        found = super().open(split)
        return Split(found.inputs, found.targets, lambda f, y: f.softmax(1)[:, 0])


class AnySplit(SoundData):
    """Takes an unknown split for the training set."""

    def open(self, split):
        return super().open(split if split in self.splits else "train")


class KeyErrorForSplit(SoundData):
    """An unknown split is a KeyError."""

    def open(self, split):
        return super().open({name: name for name in self.splits}[split])


DATASET_FAULTS = [
    (SplitTwice, "name_doc_and_splits", "splits names test twice"),
    (SplitsAsList, "name_doc_and_splits", "give a tuple of names"),
    (CannotOpen, "splits_open", "open('ood') raised FileNotFoundError: ood.npz; every name in splits must open"),
    (AsPair, "splits_open", "return a Split(inputs, targets)"),
    (Unequal, "splits_open", "split 'train' has 20 inputs but 19 targets"),
    (BooleanTargets, "targets_are_classes_or_numbers", "are torch.bool: give class indices"),
    (OneHot, "targets_are_classes_or_numbers", "have shape (20, 3): give shape (n,)"),
    (MoreClasses, "labels_are_consistent", "the labels of 'test' run to 4, those of 'train' to 2"),
    (BelowZero, "labels_are_consistent", "the labels of 'train' begin at -1"),
    (NanInputs, "inputs_are_finite", "the inputs of 'train' have values that are not finite"),
    (Shuffled, "opening_again_gives_the_same_points", "no shuffling, no augmentation"),
    (SharedTensor, "opening_leaves_the_others_alone", "opening splits changed the points of train"),
    (OneNumber, "score_is_zero_or_one", "give shape (n,), one number for each"),
    (Soft, "score_is_zero_or_one", "gave values other than 0 and 1"),
    (AnySplit, "an_unknown_split_is_refused", "open('no_such_split') gave points"),
    (KeyErrorForSplit, "an_unknown_split_is_refused", "raised KeyError: 'no_such_split'; raise acutance.UserError"),
]


class SoundExecutor(Executor[NoSpec]):
    """One job after the other."""

    name = "sound_executor"

    def run(self, jobs):
        from acutance.run.worker import execute

        for job in jobs:
            yield from execute(job)


class StopsAtAFailure(SoundExecutor):
    """Gives up when a job fails."""

    def run(self, jobs):
        for outcome in super().run(jobs):
            yield outcome
            if json.loads(outcome)["kind"] == "failed":
                return


class Rounds(SoundExecutor):
    """Changes values on the way."""

    def run(self, jobs):
        for outcome in super().run(jobs):
            yield outcome.replace('"ok"', '"failed"')


class YieldsMappings(SoundExecutor):
    """Reads the outcomes for its caller."""

    def run(self, jobs):
        yield from map(json.loads, super().run(jobs))


class LeavesAProcess(SoundExecutor):
    """Its worker outlives it."""

    def run(self, jobs):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(25)"])
        yield from super().run(jobs)


EXECUTOR_FAULTS = [
    (StopsAtAFailure, "a_failing_job_stops_no_other", "job model2 gave no outcome among jobs of which one fails"),
    (Rounds, "outcomes_are_those_of_serial", "pass the worker's texts on unchanged"),
    (YieldsMappings, "runs_jobs", "run yielded a dict: yield the JSON texts"),
    (LeavesAProcess, "closing_ends_all_workers", "worker process(es) were still there after the with block"),
]
