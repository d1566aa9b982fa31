"""One finished run, and what is published of it; tests only read them."""

import pytest
from finished_run import finished_run

from yopo_train.hub.folder import export


@pytest.fixture(scope="session")
def run(tmp_path_factory, tiny_vlm):
    """Its base is a local folder."""
    return finished_run(tmp_path_factory.mktemp("runs") / "run", tiny_vlm).path


@pytest.fixture(scope="session")
def named(run, tmp_path_factory):
    """The published folder, the base called org/tiny-vlm."""
    return export(run, tmp_path_factory.mktemp("named") / "out", base_model="org/tiny-vlm")


@pytest.fixture(scope="session")
def published(run, tmp_path_factory):
    """The published folder of a base that nobody has given a name."""
    return export(run, tmp_path_factory.mktemp("published") / "out")


@pytest.fixture(scope="module", autouse=True)
def online():
    """Against the server on loopback; the shell may have said HF_HUB_OFFLINE, as ``.ci/run`` does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield
