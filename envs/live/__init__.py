"""Real vLLM servers behind the ``Cluster`` protocol, and what belongs to running on them.

What is here beyond plain Python needs the extra ``live``: ``pip install 'routegym[live]'``.
"""
