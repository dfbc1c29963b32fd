"""Annotation formats, one module each, all read into the same checked tables.

A format offers `NAME`, `SPLIT_FILES`, `splits`, `recognises` and `read`, see `layouts.Format`, and is listed in
`layouts.GROUPS`. A new format fills `RawTables` (COCO's form, nothing checked) and returns what
`check_tables` makes of them, so that the rules for every field stay in one place.
"""
