"""Annotation formats, one module each, all read into the same checked tables.

A format offers `NAME`, `splits(folder)`, `recognises(folder, split)` and `read(folder, split)`, see `layouts.Format`;
`layouts.FORMATS` lists the formats. A new format fills `RawTables` (COCO's form, nothing checked) and returns what
`check_tables` makes of them, so that the rules for every field stay in one place.
"""
