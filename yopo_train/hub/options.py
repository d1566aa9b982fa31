"""The section ``hub`` of a configuration: where a finished run goes."""

import shlex
from dataclasses import dataclass

from huggingface_hub import get_token

from yopo_train.errors import UserError
from yopo_train.hub.connection import NO_TOKEN, check_repo_id


@dataclass
class HubOptions:
    """Push the run to the Hugging Face Hub. The token comes from HF_TOKEN or from the login, never from here.

        hub:
          push: true
          repo_id: user/name

    A push that fails changes nothing about the run: one line says why, and which command pushes later.

    Parameters
    ----------
    push
        Whether fit pushes when it is done.
    repo_id
        The repository, user/name. Made if it does not exist, updated if it does.
    private
        Whether it has to be private; one that is there already and public is refused then.
    revision
        The branch, made if it does not exist; null is main.
    create_pr
        Propose the change as a pull request. Then the final result only is pushed, see each_best.
    base_model
        The Hub id of the base model, where the run has it from a local folder.
    license
        The licence's identifier on the Hub, for the card; null is that of the base model.
    each_best
        Push the adapter during training too, in the background, whenever a ModelCheckpoint with a monitor finds a
        better one.
    """

    push: bool = False
    repo_id: str | None = None
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    base_model: str | None = None
    license: str | None = None
    each_best: bool = True

    def check(self) -> None:
        """Refuse what would fail at the end of a long run.

        Raises
        ------
        UserError
            Push is asked for and there is no repository, no token, or a pull request to a branch.
        """
        if not self.push:
            return
        check_repo_id(self.repo_id, "hub.repo_id")
        check_revision(self.revision, self.create_pr, "hub.revision")
        if get_token() is None:
            raise UserError(f"hub.push is true, but {NO_TOKEN}")

    def command(self, run: str) -> str:
        """The command that pushes a run in the same way."""
        words = ["yopo-train push", shlex.quote(run), f"--repo_id {self.repo_id}"]
        given = {"revision": self.revision, "base_model": self.base_model, "license": self.license}
        words += [f"--{name} {value}" for name, value in given.items() if value]
        words += [f"--{name}" for name in ("private", "create_pr") if getattr(self, name)]
        return " ".join(words)


def check_revision(revision: str | None, create_pr: bool, key: str) -> None:
    """A pull request is opened against main.

    Raises
    ------
    UserError
        Both are given.
    """
    if create_pr and revision not in (None, "main"):
        raise UserError(f"{key} is {revision!r}, expected none with create_pr: a pull request goes to main")
