"""Load by ghz: what `./dev load` is made of."""
