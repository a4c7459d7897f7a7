"""OpenAI's shapes under ``/openai/v1``: their SDKs work unchanged, one module per noun.

Each request becomes a job like any other, by the one way of ``submissions.py`` and ``admitting.py``: the same limits,
prices, quota, queue and rules of content. Nothing here decides about any of those.
https://platform.openai.com/docs/api-reference
"""
