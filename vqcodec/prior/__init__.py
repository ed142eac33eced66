"""The autoregressive prior: trained in floats, frozen to integers, scanned in wavefronts.

Only `network` and `freeze`, which training uses, need torch; `arithmetic` may make use of it.
"""
