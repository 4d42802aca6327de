"""What every store promises about sealed values. A store's test module derives a class from it, as from the others."""

from __future__ import annotations

import pytest

from kitaru.errors import UsageError
from kitaru.store.protocol import Held, Sealed, SealedAt, Store
from tests.store.conformance import Conformance
from tests.store.logs import Listener, completed, started


def sealed_as(mark: bytes) -> Sealed:
    return Sealed(b"sealer--", mark)


class Keeping(Conformance):
    async def test_setting_a_secret_again_keeps_its_id_and_other_values(self, store: Store) -> None:
        first = store.secrets.put("creds", "me", None, lambda *_: {"A": sealed_as(b"1"), "B": sealed_as(b"2")})
        again = store.secrets.put("creds", "me", None, lambda *_: {"B": sealed_as(b"3")})
        assert (again.id, again.version, again.private, again.keys) == (first.id, 2, True, ("A", "B"))
        found = store.secrets.values(first.id)
        assert [(at.key, at.version, sealed.data) for at, sealed in found] == [("A", 1, b"1"), ("B", 2, b"3")]

    async def test_two_owners_have_secrets_of_one_name(self, store: Store) -> None:
        mine = store.secrets.put("creds", "me", True, lambda *_: {"A": sealed_as(b"1")})
        theirs = store.secrets.put("creds", "they", False, lambda *_: {"A": sealed_as(b"2")})
        assert mine.id != theirs.id
        assert [(row.owner, row.private) for row in store.secrets.secrets()] in (
            [("me", True), ("they", False)],
            [("they", False), ("me", True)],
        )

    async def test_a_new_secret_replaces_none(self, store: Store) -> None:
        store.secrets.put("creds", "me", None, lambda *_: {"A": sealed_as(b"1")})
        with pytest.raises(UsageError, match="already"):
            store.secrets.put("creds", "me", None, lambda *_: {"A": sealed_as(b"2")}, new=True)
        ((_, sealed),) = store.secrets.values(store.secrets.secrets()[0].id)
        assert sealed.data == b"1"

    async def test_a_deleted_secret_is_gone_with_its_values(self, store: Store) -> None:
        row = store.secrets.put("creds", "me", None, lambda *_: {"A": sealed_as(b"1")})
        assert store.secrets.delete(row.id)
        assert not store.secrets.delete(row.id)
        assert store.secrets.secrets() == []
        assert store.secrets.values(row.id) == []

    async def test_a_reseal_that_fails_changes_nothing(self, store: Store) -> None:
        row = store.secrets.put("creds", "me", None, lambda *_: {"A": sealed_as(b"1"), "B": sealed_as(b"2")})

        def again(at: SealedAt, sealed: Sealed) -> Sealed:
            if at.key == "B":
                raise UsageError("stop")
            return sealed_as(b"new")

        with pytest.raises(UsageError):
            store.secrets.reseal(again)
        assert [sealed.data for _, sealed in store.secrets.values(row.id)] == [b"1", b"2"]

    async def test_what_a_run_keeps_comes_with_it_and_goes_with_its_end(self, store: Store) -> None:
        listener = Listener(store)
        append = listener.prepare("r", 0, started(), new=True)
        append.held = [Held("credential:openai", sealed_as(b"1")), Held("credential:groq", None)]
        await listener.together([append])
        assert store.secrets.held("r") == [Held("credential:groq", None), Held("credential:openai", sealed_as(b"1"))]
        end = listener.prepare("r", 1, completed())
        end.forget = True
        await listener.together([end])
        assert store.secrets.held("r") == [Held("credential:groq", None), Held("credential:openai", None)]

    async def test_what_a_run_keeps_is_not_kept_where_the_run_is_not_created(self, store: Store) -> None:
        listener = Listener(store)
        await listener.create("r")
        twice = listener.prepare("r", 0, started(), new=True)
        twice.held = [Held("credential:openai", sealed_as(b"1"))]
        await listener.together([twice])
        assert twice.error is not None
        assert store.secrets.held("r") == []

    async def test_pruning_a_run_removes_what_it_kept(self, store: Store) -> None:
        listener = Listener(store)
        append = listener.prepare("r", 0, started(), new=True)
        append.held = [Held("input:00", sealed_as(b"1"))]
        await listener.together([append])
        await listener.append("r", 1, completed())
        await store.prune(older_than=0.0, run="r")
        assert store.secrets.held("r") == []

    async def test_rebuilding_the_projections_leaves_sealed_values_alone(self, store: Store) -> None:
        row = store.secrets.put("creds", "me", None, lambda *_: {"A": sealed_as(b"1")})
        await store.rebuild()
        assert [sealed.data for _, sealed in store.secrets.values(row.id)] == [b"1"]
