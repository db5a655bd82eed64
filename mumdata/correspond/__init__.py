"""Parts of `mumdata correspondences`.

`draw` says which frames make a sample, from the catalogs alone; `scenes` opens the streams they belong to; `measure`
finds where what one frame shows lies in another, by depth maps or by tracks; `kernel` is the loop over points.
"""
