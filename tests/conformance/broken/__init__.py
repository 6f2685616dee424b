"""Methods with one defect each, to show that the batteries catch them."""
