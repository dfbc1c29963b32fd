"""Published recipes by name: the rows of the tables of tensorpack, Detectron2, the Chainer ports, FCIS and others."""

from __future__ import annotations

import difflib

from rcnn.arguments import as_text
from rcnn.training.recipes import chainer, detectron2, fcis, lsj, mask_faster_rcnn, tensorpack
from rcnn.training.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *tensorpack.RECIPES,
        *detectron2.RECIPES,
        *lsj.RECIPES,
        *chainer.RECIPES,
        *fcis.RECIPES,
        *mask_faster_rcnn.RECIPES,
    )
}


def list_recipes(name: str = "") -> list[Recipe]:
    """The published recipes, in the order of docs/recipes.md; with `name`, that one, or those whose names contain it.

    `rcnn.train(recipe=recipe.name, data=...)` trains with one. Raises ValueError, with similar names, if there is none.
    """
    name = as_text(name, "the recipe", "a name, or a part of one")
    if name in RECIPES:
        return [RECIPES[name]]
    return [recipe for recipe in RECIPES.values() if name in recipe.name] or [find_recipe(name)]


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`; the ValueError for an unknown name suggests similar ones."""
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"no recipe named {name!r}; {hint}`rcnn models recipes` prints all names")
