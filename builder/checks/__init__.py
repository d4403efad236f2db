"""The pytest plugin: pytest-testinfra reads Windows disk images, with modules that know Windows."""
