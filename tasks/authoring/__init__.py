"""Scripts with which authors check and complete the data files of tasks. The wheel does not contain them."""
