"""Rate and distortion over a folder of pictures, beside other codecs."""
