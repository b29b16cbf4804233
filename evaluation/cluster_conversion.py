"""`pics.py encode|decode --engine ray`: the files of a folder as rows through actors of Ray Data.

    for outcome in outcomes(jobs, load, gpu=False): ...

Each actor loads the models once, reads the files and writes the results, whole or not at all, to
the folders that all machines see; what became of them are the rows that come back.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import reason_of
from evaluation.cluster import MOST_TRIES, attempt, killed, through_actors, tries
from evaluation.conversion import SPEAKING, Job, Made, Outcome, do

if TYPE_CHECKING:
    import pyarrow

Load = Callable[[], Callable[[Job], Made]]  # loads the models, in an actor


class Maker:
    """Makes results with models that it loads once. counter: from `cluster.tries`."""

    def __init__(self, load: Load, counter: Any):
        self.make, self.counter = load(), counter

    def __call__(self, jobs: "pyarrow.Table") -> "pyarrow.Table":
        """Return what became of jobs."""
        import pyarrow

        rows = []
        for row in jobs.to_pylist():
            outcome = self.attempt(Job(row["name"], Path(row["source"]), Path(row["target"])))
            fields = outcome._asdict()
            del fields["job"]
            rows.append(row | fields)
        return pyarrow.Table.from_pylist(rows)

    def attempt(self, job: Job) -> Outcome:
        """Do a job, unless it has killed its worker too often. Raises as `conversion.do`."""
        with attempt(self.counter, job.target.name) as before:
            if before < MOST_TRIES:
                return do(job, self.make)
            return Outcome(job, failure=reason_of(killed(), SPEAKING))


def outcomes(jobs: Sequence[Job], load: Load, gpu: bool) -> Iterator[Outcome]:
    """Yield what became of jobs, as it is known; gpu: an actor has one. Raises RayError."""
    import pyarrow
    import ray

    blocks = []
    for number, job in enumerate(jobs):
        row = {"name": job.name, "number": number}
        row |= {"source": str(job.source.absolute()), "target": str(job.target.absolute())}
        blocks.append(pyarrow.Table.from_pylist([row]))
    rows = through_actors(ray.data.from_arrow(blocks), Maker, (load, tries()), gpu, 1)
    for row in rows.iter_rows():
        job = jobs[row.pop("number")]
        for name in ("name", "source", "target"):
            del row[name]
        yield Outcome(job, **row)
