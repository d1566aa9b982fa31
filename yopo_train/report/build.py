"""``yopo-train report RUN``: from a run's files to ``report.html`` and ``plots/*.png``. No model is needed.

Everything is read, checked and drawn before the first byte is written: bad input leaves an earlier report as it was.
"""

from pathlib import Path

from yopo_train.errors import UserError
from yopo_train.report.files import read_inputs
from yopo_train.report.html import page
from yopo_train.report.overview import cards, provenance
from yopo_train.report.sections import SECTIONS
from yopo_train.run_folder import RunFolder, write_bytes, write_text

PAGE, PLOTS = "report.html", "plots"


def write_report(path: str | Path) -> Path:
    """Build a run's report anew.

    Parameters
    ----------
    path
        The run's folder. Plots of an earlier report that this one does not have are removed; other files in ``plots/``
        are left alone.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    UserError
        Not a run folder, no scores, a damaged file, a plan of other dimensions than the scores, or a file that cannot
        be written.
    """
    run = RunFolder(path)
    inputs = read_inputs(run)
    blocks = [section(inputs) for section in SECTIONS]
    text = page(run.path.resolve().name, cards(inputs), provenance(inputs), blocks)
    for block in blocks:
        file = run.path / PLOTS / f"{block.name}.png"
        if block.picture is not None:
            write_bytes(file, block.picture)
        else:
            _remove(file)
    write_text(run.path / PAGE, text)
    return run.path / PAGE


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{file}: cannot be removed: {error.strerror or error}") from None
