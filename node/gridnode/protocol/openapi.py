"""placeholder"""


def openapi_document():
    return {}
