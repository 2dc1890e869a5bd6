"""Speech recognition: data, models, training and decoding, in float and in few bits.

The packages that it needs besides are installed by ``pip install 'gbdnn[speech]'``.
"""
