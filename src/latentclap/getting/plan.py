"""From a listing to files in place: what is there already, what it takes, then the downloads themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from latentclap.errors import InputError
from latentclap.files import existing, free_bytes
from latentclap.getting.checksums import digests
from latentclap.getting.errors import Stopped, host
from latentclap.getting.fetch import Network, fetch
from latentclap.getting.items import Item, Options, row_of
from latentclap.getting.manifest import Known, Manifest
from latentclap.getting.partial import downloaded, tidy
from latentclap.getting.plausible import implausible
from latentclap.getting.remote import Listing, NoRevision, RemoteFile, list_files
from latentclap.getting.sources import Source
from latentclap.locks import Taken, locked
from latentclap.wording import human

Say = Callable[[str], None]


class Plan:
    """All files of one source, their manifest, and the downloads."""

    def __init__(
        self,
        source: Source,
        options: Options,
        *,
        subsets: tuple[str, ...] = (),
        done: frozenset[str] = frozenset(),
    ) -> None:
        """Ask the server and look at the disk; nothing is written.

        Args:
            source: what to get.
            options: the user's choices.
            subsets: of the source, where it has some.
            done: archives that need not be here because their contents are.

        Raises:
            InputError: the folder is none, or the server does not answer.
        """
        self.source, self.options = source, options
        self.folder = options.out or Path(source.out)
        place = existing(self.folder)
        if not place.is_dir():
            raise InputError(f"--out {self.folder}: {place} is a file; give another folder")
        self.manifest = Manifest(self.folder)
        listing = self._list(subsets)
        self.revision = listing.revision
        self.items = [self._item(remote, done) for remote in listing.files]
        self.notes = [*listing.notes, *self._trust()]
        self._lock = threading.Lock()

    def _list(self, subsets: tuple[str, ...]) -> Listing:
        options = self.options
        # a repository may move on between two runs: what was begun at one commit is finished at it
        begun = "" if options.revision else self.manifest.revisions.get(self.source.name, "")
        try:
            return list_files(
                self.source,
                mirror=options.mirror,
                revision=options.revision or begun,
                subsets=subsets,
                timeout=options.timeout,
                attempts=options.attempts,
                wait=options.wait,
            )
        except NoRevision as error:
            if not begun:
                raise
            raise InputError(
                f"{error}, with which {self.folder} was begun; --revision main goes on with what is there now"
            ) from None

    def _item(self, remote: RemoteFile, done: frozenset[str]) -> Item:
        target = self.folder / remote.name
        known = self.manifest.files.get(remote.name)
        if known and not remote.checksum:
            # none is published: what was trusted at first is what counts from then on
            told = f"the first download of {known.seen[:10]}, {self.manifest.path.name}"
            remote = replace(remote, checksum=f"sha256:{known.sha256}", told_by=told)
        if target.is_file():
            sure = known and known.unchanged(target) and _agree(known, remote) and not self.options.verify
            return Item(remote, target, "in place" if sure else "to be checked")
        if remote.name in done and known and _agree(known, remote):
            return Item(remote, target, "unpacked")
        return Item(remote, target, "begun" if downloaded(target) else "to download")

    def _trust(self) -> list[str]:
        names = [item.remote.name for item in self.items if not item.remote.checksum]
        if not names:
            return []
        return [
            f"no published checksum of {_and(names)} is known: the first download is trusted, its SHA-256 written"
            f" to {self.manifest.path.name} and compared from then on"
        ]

    # --- before ---------------------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Bytes to download, of the files whose size is told."""
        return sum(item.missing for item in self.items)

    @property
    def waiting(self) -> list[Item]:
        """Files that are not in place."""
        return [item for item in self.items if item.state in ("to download", "begun")]

    def table(self, unpacked: int = 0, peak: int | None = None) -> str:
        """The plan in words: a line per file (of many, the first and the last), then the sums and the free space."""
        rows = [row_of(item) for item in self.items]
        if len(rows) > 24:
            rows = [*rows[:16], f"  ... {len(rows) - 20} more ...", *rows[-4:]]
        silent = sum(item.remote.size is None for item in self.waiting)
        sums = f"{human(self.missing)} to download in {len(self.waiting)} of {len(self.items)} files"
        if silent:
            sums += f" and {silent} of unknown size"
        if unpacked:
            sums += f", about {human(unpacked)} more when unpacked"
        if peak is not None and peak < self.missing + unpacked:
            sums += f", at most {human(peak)} at once"
        place = existing(self.folder)
        free = free_bytes(place)
        lines = [f"  to       {self.folder}", *rows, f"  {sums}; {human(free)} free at {place}"]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def preflight(self, unpacked: int = 0, peak: int | None = None) -> None:
        """Stop before the first byte if the disk cannot hold what is to come.

        Args:
            unpacked: bytes that unpacking will add.
            peak: most bytes at any time, where some go again before others come; None for all together.

        Raises:
            InputError: not enough room.
        """
        place = existing(self.folder)
        free = free_bytes(place)
        need = self.missing + unpacked if peak is None else peak
        if need > free:
            more = f" ({human(self.missing)} to download, {human(unpacked)} to unpack)" if unpacked else ""
            more = f" at once{more}" if need < self.missing + unpacked else more
            raise InputError(
                f"{self.source.name} needs {human(need)}{more}, {human(free)} are free at {place}; make room or take"
                " another --out"
            )

    # --- the downloads --------------------------------------------------------------------------------------

    @contextmanager
    def alone(self):  # noqa: ANN201 - a context manager without a value
        """Hold the folder for this source; two downloads of one thing would spoil each other."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.folder}: {error.strerror}; give another folder") from None
        try:
            with locked(self.folder / f".{self.source.name}.lock", wait=False, strict=True):
                yield
        except Taken:
            raise InputError(
                f"{self.folder}: another run is getting {self.source.name}; wait for it"
            ) from None

    def run(self, say: Say, items: list[Item] | None = None) -> list[Path]:
        """Download what is missing of all (or some) items, check what is there; return all paths that are here now.

        Raises:
            InputError: the first thing that went wrong; finished files stay, unfinished ones are continued later.
        """
        if self.revision and self.manifest.revisions.get(self.source.name) != self.revision:
            self.manifest.update(revisions={self.source.name: self.revision})
        stop = threading.Event()
        todo = [item for item in (self.items if items is None else items) if item.state != "unpacked"]
        if not todo:
            return []
        total = sum(item.remote.size or 0 for item in todo)
        quiet = True if self.options.quiet else None
        with tqdm(total=total, unit="B", unit_scale=True, desc=self.source.name, disable=quiet) as bar:

            def progress(n: int) -> None:
                with self._lock:
                    bar.update(n)

            network = Network(self.options.timeout, self.options.attempts, self.options.wait, progress, stop)
            self._all(todo, network, say)
        return [item.target for item in todo]

    def _all(self, items: list[Item], network: Network, say: Say) -> None:
        """Settle every item, several at once; the first failure ends the others at their next byte."""
        pool = ThreadPoolExecutor(max(1, min(self.options.workers, len(items))))
        futures = [pool.submit(self._settle, item, network, say) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            # a thread that waits for a silent server would hold the user up until its time is over
            network.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        if any(future.done() and future.exception() for future in futures):
            network.stop.set()
        pool.shutdown(wait=True, cancel_futures=network.stop.is_set())
        errors = [error for f in futures if not f.cancelled() and (error := f.exception())]
        for error in sorted(errors, key=lambda e: isinstance(e, Stopped)):
            raise error

    def _settle(self, item: Item, network: Network, say: Say) -> None:
        """Bring one file into place, checked and written down."""
        if item.state == "in place":
            network.progress(item.target.stat().st_size)
            tidy(item.target)
            return
        if item.state == "to be checked" and self._check(item, network):
            tidy(item.target)
            return
        network.progress(downloaded(item.target))
        sha256 = fetch(item.remote, item.target, network)
        self._remember(item, sha256)
        if not item.remote.checksum:
            self._tell(say, f"{item.remote.name}: sha256 {sha256}, trusted as the first of its kind")

    def _check(self, item: Item, network: Network) -> bool:
        """Read a file that is there already; False if it has to be downloaded again."""
        algorithm, _, expected = item.remote.checksum.partition(":")
        size = item.target.stat().st_size
        found = digests(item.target, {"sha256", *([algorithm] if algorithm else [])})
        wrong = ""
        if expected and found[algorithm] != expected.lower():
            wrong = f"{algorithm} is {found[algorithm]}, expected {expected} (told by {item.remote.told_by})"
        elif not expected and item.remote.size not in (None, size):
            wrong = f"{size} bytes, {host(item.remote.url)} has {item.remote.size}"
        elif not expected:
            wrong = implausible(item.target, item.remote.name)
        if not wrong:
            self._remember(item, found["sha256"])
            network.progress(size)
            return True
        if self.options.replace:
            return False
        raise InputError(f"{item.target}: {wrong}; move it away, or --replace downloads it again")

    def _remember(self, item: Item, sha256: str) -> None:
        known = self.manifest.files.get(item.remote.name)
        ours = item.remote.told_by.startswith("the first download")  # the checksum is the manifest's own
        published = (known.published, known.told_by) if ours and known else None
        checksum, told_by = published or (item.remote.checksum, item.remote.told_by)
        with self._lock:
            self.manifest.remember(
                item.remote.name,
                item.target,
                sha256,
                source=self.source.name,
                url=item.remote.url,
                published=checksum,
                told_by=told_by,
            )

    def _tell(self, say: Say, text: str) -> None:
        with self._lock:
            say(text)


def _agree(known: Known, remote: RemoteFile) -> bool:
    """Whether what was checked then is what the server speaks of now."""
    return remote.checksum in ("", known.published, f"sha256:{known.sha256}")


def _and(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
