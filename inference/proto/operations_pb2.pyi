from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class OperationRequest(_message.Message):
    __slots__ = ("build", "verb", "request")
    BUILD_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    build: str
    verb: str
    request: str
    def __init__(self, build: _Optional[str] = ..., verb: _Optional[str] = ..., request: _Optional[str] = ...) -> None: ...

class OperationReply(_message.Message):
    __slots__ = ("reply",)
    REPLY_FIELD_NUMBER: _ClassVar[int]
    reply: str
    def __init__(self, reply: _Optional[str] = ...) -> None: ...
