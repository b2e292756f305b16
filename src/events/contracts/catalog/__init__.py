"""The catalog of the contracts of one service or of many: a model, a map, a static site."""
