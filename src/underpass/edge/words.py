"""Words that quick-tunnel names are made of: short, plain, easy to say over a telephone.

A name is one of each list, such as `brave-otter-copper-lamp`: some 30 million combinations, so
that guessing finds nobody's tunnel in a reasonable time.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MOODS: Final = _words(
    """
    able agile alert ample apt avid awake bold brave brief bright brisk broad calm candid clever
    cosy crisp deft eager early easy exact fair famous fast fine firm fond frank free fresh
    gentle glad good grand happy hardy honest humble jolly keen kind lively loyal lucky mellow
    merry mild modest neat nimble noble patient plain polite prompt proud quick quiet ready
    sound steady tidy
    """
)

ANIMALS: Final = _words(
    """
    badger beaver bee bison camel cat cobra condor cougar crane cricket crow deer dolphin dove
    eagle falcon ferret finch fox gecko goose hare hawk heron horse ibex ibis jackal jaguar
    kestrel koala lark lemur lion llama lynx magpie marten mole moose mouse newt orca otter owl
    panda parrot pelican puffin rabbit raven robin seal sparrow stork swan swift tiger toad
    turtle walrus wolf wren
    """
)

MATERIALS: Final = _words(
    """
    amber ash azure beige birch black blue brass brick bronze brown cedar chalk cherry clay
    cobalt copper coral cork cotton cream crimson denim ebony elm emerald felt flint garnet
    glass gold granite green hazel indigo iron ivory jade lace larch leather lemon lilac linen
    maple marble nickel oak ochre olive onyx opal orange paper pearl pine pink plum purple
    quartz red ruby rust silver
    """
)

THINGS: Final = _words(
    """
    anchor anvil apron arch arrow atlas attic axle badge balcony ball banjo barn barrel basin
    basket bell bench bicycle boat book bottle bowl box bridge brush bucket button cabin candle
    canoe canvas card cart castle cello chair chest clock cloud coat coin comb compass cradle
    crate crown cup curtain desk door dress drum easel engine fan feather fence field flag flute
    forest fork fountain frame garden gate glove globe hammer harbor harp hat helmet hill hinge
    island jacket jar kettle key kite ladder lake lamp lantern lens letter lock loom map mask
    meadow mill mirror mitten needle nest oar orchard organ oven paddle parcel path pencil piano
    pillow pocket pond porch quilt raft ribbon river rocket
    """
)
