"""Relations between objects that a sentence names: found in its parse, measured on boxes, joined with any scorer.

The rules are those of ReCLIP (Subramanian et al.: ReCLIP: A Strong Zero-shot Baseline for Referring Expression
Comprehension, ACL 2022, arXiv 2204.05991, https://github.com/allenai/reclip, ``--method parse``); the code is our own.
"""
