"""Speed of our localization methods against the plain way and the libraries' recipes."""
