"""Products of whole numbers with the instructions of AVX-512: VNNI and VBMI."""
