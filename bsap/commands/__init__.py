"""The commands behind ``bsap``, one module each, imported only when called."""
