"""One commit of a repository, as one caller may see it: what is in it, and where its bytes are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model_runner.registry.huggingface.client import ask
from model_runner.registry.huggingface.source import HubSource

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from model_runner.names import HubReference
    from model_runner.registry.huggingface.files import HubAccess, HubFile, Revision
    from model_runner.registry.wire import Wire


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit.

    Attributes:
        wire: The connections.
        access: Who asks, and for which repository, as the hub spells it now.
        revision: Which commit of it.
    """

    wire: Wire
    access: HubAccess
    revision: Revision

    @classmethod
    async def find(cls, wire: Wire, wanted: HubReference, access: HubAccess) -> Commit:
        """What a name stands for now.

        Raises:
            RegistryError: The hub refuses, cannot be reached, or says what makes no sense.
            RemoteModelNotFound: It does not have that.
        """

        def find(api: HfApi) -> Revision:
            from model_runner.registry.huggingface import library

            return library.find_revision(api, access, wanted.revision)

        revision = await ask(access, wire.patience, find)
        return cls(wire, replace(access, repository=revision.repository), revision)

    @staticmethod
    async def find_by_time(wire: Wire, access: HubAccess, moment: str) -> str | None:
        """The hash of the commit of the main branch that was made then; None if there is none.

        Args:
            wire: The connections.
            access: Who asks, and for which repository.
            moment: As packages note it of their files.

        Raises:
            RegistryError: As of `find`.
            RemoteModelNotFound: As of `find`.
        """

        def find(api: HfApi) -> str | None:
            from model_runner.registry.huggingface import library

            return library.find_commit(api, access, moment)

        return await ask(access, wire.patience, find)

    @property
    def name(self) -> str:
        """The repository, for messages."""
        return f"hf.co/{self.access.repository}"

    async def files(self) -> list[HubFile]:
        """All of its files.

        Raises:
            RegistryError: As of `find`.
            UnsupportedModel: There are too many for a model.
        """

        def find(api: HfApi) -> list[HubFile]:
            from model_runner.registry.huggingface import library

            return library.list_files(api, self.access, self.revision.commit)

        return await ask(self.access, self.wire.patience, find)

    def source(self, file: HubFile) -> HubSource:
        """Where a file's bytes come from."""
        return HubSource(self.wire, self.access, self.revision.commit, file)
