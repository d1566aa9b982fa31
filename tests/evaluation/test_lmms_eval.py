"""lmms-eval asks our model: by its documented contract, and with its own classes where it is installed."""

import json
import sys
import tomllib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from toy_benchmark import ToyBenchmark, ToyItem

from yopo_train.data.collate import EvalCollator
from yopo_train.errors import UserError
from yopo_train.evaluation.generation import generate_answers
from yopo_train.evaluation.runner import evaluate
from yopo_train.models import family_of, load_base
from yopo_train.plan import PruningPlan
from yopo_train.pruning import active_plan, prune
from yopo_train.recovery import LoraOptions, save_adapter
from yopo_train.recovery.adapter import attach_lora

ROOT = Path(__file__).parents[2]
OURS = "yopo_train.evaluation.lmms_eval_model"
TASK, SPLIT = "toy_task", "test"


# -- lmms-eval as its documentation has it ----------------------------------------------------------------------------
@dataclass(frozen=True)
class DocumentedManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


class DocumentedModel(ABC):
    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)

    @classmethod
    def create_from_arg_string(cls, arg_string, additional_config=None):
        given = dict(pair.split("=", 1) for pair in arg_string.split(","))
        return cls(**given, **{key: value for key, value in (additional_config or {}).items() if value is not None})

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...


class DocumentedMessages:
    def __init__(self, messages) -> None:
        self.messages = messages

    def model_dump(self) -> dict:
        return {"messages": self.messages}


def documented(monkeypatch) -> None:
    contents = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": DocumentedModel},
        "lmms_eval.protocol": {"ChatMessages": DocumentedMessages},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": DocumentedManifest},
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(params=["documented", "installed"])
def lmms_eval(request, monkeypatch):
    """The class that the entry point leads to, and how a request is made."""
    monkeypatch.delitem(sys.modules, OURS, raising=False)
    if request.param == "documented":
        documented(monkeypatch)
        make = lambda arguments, number: SimpleNamespace(args=arguments, doc_id=number)  # noqa: E731
    else:
        pytest.importorskip("lmms_eval.api.model", exc_type=ImportError)
        from lmms_eval.api.instance import Instance

        def make(arguments, number):
            about = {"task": TASK, "doc_id": number, "repeats": 1}
            return Instance("generate_until", arguments, 0, metadata=about)

    manifest = entry_point().load()()
    module, _, name = manifest.chat_class_path.rpartition(".")
    yield SimpleNamespace(manifest=manifest, model=getattr(__import__(module, fromlist=[name]), name), make=make)
    sys.modules.pop(OURS, None)


def entry_point() -> EntryPoint:
    group = "lmms_eval.models"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    return EntryPoint("yopo", declared["yopo"], group)


def messages_of(document: dict) -> list[dict]:
    images = [{"type": "image", "url": image} for image in document["images"]]
    return [{"role": "user", "content": [*images, {"type": "text", "text": document["question"]}]}]


@pytest.fixture
def documents():
    return [{"images": item.images(), "question": item.prompt} for item in map(ToyItem, range(6))]


def requests_for(make, documents, **settings) -> list:
    shape = [("", messages_of, dict(settings), number, TASK, SPLIT) for number in range(len(documents))]
    return [make(arguments, number) for number, arguments in enumerate(shape)]


# -- tests ------------------------------------------------------------------------------------------------------------
def test_the_manifest_leads_to_a_chat_model(lmms_eval):
    assert lmms_eval.manifest.model_id == "yopo" and lmms_eval.manifest.simple_class_path is None
    assert lmms_eval.model.is_simple is False


def test_the_registry_finds_it():
    registry = pytest.importorskip("lmms_eval.models.registry_v2", exc_type=ImportError).ModelRegistryV2()
    registry._select_entry_points = lambda group: [entry_point()]
    registry.load_entrypoint_manifests(overwrite=True)
    assert registry.get_model_class("yopo").__name__ == "YopoChat"
    sys.modules.pop(OURS, None)


@pytest.fixture(scope="module")
def trained(tiny_vlm, tmp_path_factory):
    """Folders of a plan and of an adapter that changes answers, and the model with both."""
    folder = tmp_path_factory.mktemp("trained")
    model, processor = load_base(tiny_vlm, dtype="float32")
    dims = family_of(model).dims(model.config)
    heads = torch.ones(dims.layers, dims.heads, dtype=torch.bool)
    heads[:, ::2] = False
    plan = PruningPlan(dims, heads, torch.ones(dims.layers, dims.intermediate, dtype=torch.bool), 2, dims.layers)
    plan.save(folder / "plan.safetensors")
    model = attach_lora(prune(model, plan), LoraOptions(r=2))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    save_adapter(model, folder / "adapter", str(tiny_vlm), None)
    return folder, model.eval(), processor


def test_answers_in_order_of_a_pruned_model_with_an_adapter(lmms_eval, trained, tiny_vlm, documents):
    folder, model, processor = trained
    arguments = f"pretrained={tiny_vlm},plan={folder / 'plan.safetensors'},adapter={folder / 'adapter'},dtype=float32"
    theirs = lmms_eval.model.create_from_arg_string(arguments, {"batch_size": 4, "device": "cpu"})
    theirs.task_dict[TASK] = {SPLIT: documents}
    requests = requests_for(lmms_eval.make, documents, max_new_tokens=3, temperature=0, until=["\n\n"])
    requests[1].args[2]["max_new_tokens"] = 1  # does not fit into the others' batch
    found = theirs.generate_until(requests)

    items = [ToyItem(number) for number in range(6)]
    ours = evaluate(model, processor, ToyBenchmark(), items, max_new_tokens=3, batch_size=1).predictions
    expected = [ours[item.id] for item in items]
    short = EvalCollator(processor)(
        [
            {
                "id": "1",
                "kind": "",
                "images": items[1].images(),
                "messages": [
                    {"role": "user", "content": f"<image>\n{items[1].prompt}"},
                    {"role": "assistant", "content": ""},
                ],
            }
        ]
    )
    expected[1] = generate_answers(model, processor, short, 1)[0]
    assert found == expected and all(isinstance(text, str) for text in found)
    assert active_plan(theirs.model).id == PruningPlan.load(folder / "plan.safetensors").id
    assert (theirs.rank, theirs.world_size, theirs.device) == (0, 1, torch.device("cpu"))
    theirs.clean()
    assert theirs.generate_until(requests[:1]) == found[:1], "a live model is used again"


def test_what_yopo_does_not_do_is_said(lmms_eval, tiny_vlm, documents):
    theirs = lmms_eval.model(str(tiny_vlm), device="cpu")
    theirs.task_dict[TASK] = {SPLIT: documents}
    with pytest.raises(UserError, match=r"temperature 0\.7, expected 0"):
        theirs.generate_until(requests_for(lmms_eval.make, documents, temperature=0.7))
    documents[0]["images"] = []
    video = lambda document: [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]  # noqa: E731
    request = lmms_eval.make(("", video, {}, 0, TASK, SPLIT), 0)
    with pytest.raises(UserError, match="asks with video"):
        theirs.generate_until([request])
    for method in (theirs.loglikelihood, theirs.generate_until_multi_round):
        with pytest.raises(NotImplementedError):
            method([])
    assert json.dumps(theirs.generate_until([])) == "[]"
