"""The export: a package that is too old for it is named on import, before its parts ask for what that one lacks."""

from ringpull.inference.export.supported import check_supported

check_supported()
