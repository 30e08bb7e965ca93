"""PE images and the modules that they are loaded as: headers, exports, version resources, image files."""
