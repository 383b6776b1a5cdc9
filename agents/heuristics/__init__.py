"""The rules that today's routers ship: one policy a file, one configuration each in ``conf/agent``."""
