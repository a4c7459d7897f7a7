"""The catalogue: names and aliases find a model of the right kind, or a list of what there is."""

from __future__ import annotations

import pytest

from tessera.catalog import NOOP, NOOP_HEAVY, PREVIEW_MODELS, Catalog, Model, catalog_of
from tessera.errors import UnknownModel
from tessera.inputs import parse_input
from tessera.jobs import Kind

ALL = catalog_of([model.id for model in (*PREVIEW_MODELS, NOOP, *NOOP_HEAVY)])


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_a_default(kind: Kind) -> None:
    assert ALL.resolve(kind, None).id == f"preview-{kind.value}"


@pytest.mark.parametrize("model", (*PREVIEW_MODELS, NOOP, *NOOP_HEAVY), ids=lambda model: model.id)
def test_a_model_is_found_by_its_id_and_by_each_alias(model: Model) -> None:
    assert all(ALL.resolve(model.kind, name) is model for name in (model.id, *model.aliases))


def test_no_name_means_two_models_of_one_kind() -> None:
    names = [(m.kind, name) for m in ALL.models for name in (m.id, *m.aliases)]
    assert len(names) == len(set(names))


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(UnknownModel, match="preview-image"):
        ALL.resolve(Kind.IMAGE, "sdxl")


def test_a_model_of_another_kind_is_unknown_here() -> None:
    with pytest.raises(UnknownModel):
        ALL.resolve(Kind.IMAGE, "preview-text")


@pytest.mark.parametrize("model", (NOOP, *NOOP_HEAVY), ids=lambda model: model.id)
def test_a_hidden_model_is_found_by_its_name_and_is_never_the_default_nor_told(model: Model) -> None:
    served = catalog_of([model.id])
    with pytest.raises(UnknownModel) as refusal:
        served.resolve(Kind.TEXT, None)
    assert model.id not in refusal.value.message
    with pytest.raises(UnknownModel, match="none"):
        served.resolve(Kind.TEXT, "gpt-4o")
    assert served.resolve(Kind.TEXT, model.id) is model


def test_only_served_models_are_in_the_catalogue() -> None:
    assert [m.id for m in catalog_of(["preview-image", "unknown"]).models] == ["preview-image"]
    assert Catalog(()).by_id("preview-image") is None


@pytest.mark.parametrize("model", PREVIEW_MODELS, ids=lambda model: model.id)
def test_the_examples_are_valid_inputs(model: Model) -> None:
    for example in model.examples:
        parse_input(model.kind, example)
