from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Id(_message.Message):
    __slots__ = ("id_int", "id_str")
    ID_INT_FIELD_NUMBER: _ClassVar[int]
    ID_STR_FIELD_NUMBER: _ClassVar[int]
    id_int: int
    id_str: str
    def __init__(self, id_int: _Optional[int] = ..., id_str: _Optional[str] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("dims",)
    DIMS_FIELD_NUMBER: _ClassVar[int]
    dims: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dims: _Optional[_Iterable[int]] = ...) -> None: ...

class TensorData(_message.Message):
    __slots__ = ("shape", "dtype", "is_quantized", "scale", "zero_point", "contents_uint8", "contents_int8", "contents_int16", "contents_int32", "contents_int64", "contents_float16", "contents_float32", "contents_float64", "contents_bool", "contents_qint8", "contents_quint8", "contents_qint32", "contents_bfloat16")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    IS_QUANTIZED_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    ZERO_POINT_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_UINT8_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_INT8_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_INT16_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_INT32_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_INT64_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FLOAT16_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FLOAT32_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FLOAT64_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_BOOL_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_QINT8_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_QUINT8_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_QINT32_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_BFLOAT16_FIELD_NUMBER: _ClassVar[int]
    shape: Shape
    dtype: str
    is_quantized: bool
    scale: float
    zero_point: int
    contents_uint8: _containers.RepeatedScalarFieldContainer[bytes]
    contents_int8: _containers.RepeatedScalarFieldContainer[bytes]
    contents_int16: _containers.RepeatedScalarFieldContainer[bytes]
    contents_int32: _containers.RepeatedScalarFieldContainer[bytes]
    contents_int64: _containers.RepeatedScalarFieldContainer[bytes]
    contents_float16: _containers.RepeatedScalarFieldContainer[bytes]
    contents_float32: _containers.RepeatedScalarFieldContainer[bytes]
    contents_float64: _containers.RepeatedScalarFieldContainer[bytes]
    contents_bool: _containers.RepeatedScalarFieldContainer[bytes]
    contents_qint8: _containers.RepeatedScalarFieldContainer[bytes]
    contents_quint8: _containers.RepeatedScalarFieldContainer[bytes]
    contents_qint32: _containers.RepeatedScalarFieldContainer[bytes]
    contents_bfloat16: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, shape: _Optional[_Union[Shape, _Mapping]] = ..., dtype: _Optional[str] = ..., is_quantized: _Optional[bool] = ..., scale: _Optional[float] = ..., zero_point: _Optional[int] = ..., contents_uint8: _Optional[_Iterable[bytes]] = ..., contents_int8: _Optional[_Iterable[bytes]] = ..., contents_int16: _Optional[_Iterable[bytes]] = ..., contents_int32: _Optional[_Iterable[bytes]] = ..., contents_int64: _Optional[_Iterable[bytes]] = ..., contents_float16: _Optional[_Iterable[bytes]] = ..., contents_float32: _Optional[_Iterable[bytes]] = ..., contents_float64: _Optional[_Iterable[bytes]] = ..., contents_bool: _Optional[_Iterable[bytes]] = ..., contents_qint8: _Optional[_Iterable[bytes]] = ..., contents_quint8: _Optional[_Iterable[bytes]] = ..., contents_qint32: _Optional[_Iterable[bytes]] = ..., contents_bfloat16: _Optional[_Iterable[bytes]] = ...) -> None: ...

class TorchTensor(_message.Message):
    __slots__ = ("id", "contents_data", "contents_bin", "chain", "grad_chain", "tags", "description", "serializer")
    class Serializer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SERIALIZER_UNSPECIFIED: _ClassVar[TorchTensor.Serializer]
        SERIALIZER_TORCH: _ClassVar[TorchTensor.Serializer]
        SERIALIZER_NUMPY: _ClassVar[TorchTensor.Serializer]
        SERIALIZER_TF: _ClassVar[TorchTensor.Serializer]
        SERIALIZER_ALL: _ClassVar[TorchTensor.Serializer]
    SERIALIZER_UNSPECIFIED: TorchTensor.Serializer
    SERIALIZER_TORCH: TorchTensor.Serializer
    SERIALIZER_NUMPY: TorchTensor.Serializer
    SERIALIZER_TF: TorchTensor.Serializer
    SERIALIZER_ALL: TorchTensor.Serializer
    ID_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_BIN_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    GRAD_CHAIN_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SERIALIZER_FIELD_NUMBER: _ClassVar[int]
    id: Id
    contents_data: TensorData
    contents_bin: bytes
    chain: TorchTensor
    grad_chain: TorchTensor
    tags: _containers.RepeatedScalarFieldContainer[str]
    description: str
    serializer: TorchTensor.Serializer
    def __init__(self, id: _Optional[_Union[Id, _Mapping]] = ..., contents_data: _Optional[_Union[TensorData, _Mapping]] = ..., contents_bin: _Optional[bytes] = ..., chain: _Optional[_Union[TorchTensor, _Mapping]] = ..., grad_chain: _Optional[_Union[TorchTensor, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ..., serializer: _Optional[_Union[TorchTensor.Serializer, str]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("id", "tensor", "requires_grad", "grad")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_GRAD_FIELD_NUMBER: _ClassVar[int]
    GRAD_FIELD_NUMBER: _ClassVar[int]
    id: Id
    tensor: TorchTensor
    requires_grad: bool
    grad: TorchTensor
    def __init__(self, id: _Optional[_Union[Id, _Mapping]] = ..., tensor: _Optional[_Union[TorchTensor, _Mapping]] = ..., requires_grad: _Optional[bool] = ..., grad: _Optional[_Union[TorchTensor, _Mapping]] = ...) -> None: ...

class StateTensor(_message.Message):
    __slots__ = ("torch_tensor", "torch_param")
    TORCH_TENSOR_FIELD_NUMBER: _ClassVar[int]
    TORCH_PARAM_FIELD_NUMBER: _ClassVar[int]
    torch_tensor: TorchTensor
    torch_param: Parameter
    def __init__(self, torch_tensor: _Optional[_Union[TorchTensor, _Mapping]] = ..., torch_param: _Optional[_Union[Parameter, _Mapping]] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ("placeholders", "tensors")
    PLACEHOLDERS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    placeholders: _containers.RepeatedCompositeFieldContainer[Placeholder]
    tensors: _containers.RepeatedCompositeFieldContainer[StateTensor]
    def __init__(self, placeholders: _Optional[_Iterable[_Union[Placeholder, _Mapping]]] = ..., tensors: _Optional[_Iterable[_Union[StateTensor, _Mapping]]] = ...) -> None: ...

class PlaceholderId(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: Id
    def __init__(self, id: _Optional[_Union[Id, _Mapping]] = ...) -> None: ...

class Placeholder(_message.Message):
    __slots__ = ("child_tensor", "child_parameter", "id", "tags", "description", "expected_shape")
    CHILD_TENSOR_FIELD_NUMBER: _ClassVar[int]
    CHILD_PARAMETER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SHAPE_FIELD_NUMBER: _ClassVar[int]
    child_tensor: TorchTensor
    child_parameter: Parameter
    id: Id
    tags: _containers.RepeatedScalarFieldContainer[str]
    description: str
    expected_shape: Shape
    def __init__(self, child_tensor: _Optional[_Union[TorchTensor, _Mapping]] = ..., child_parameter: _Optional[_Union[Parameter, _Mapping]] = ..., id: _Optional[_Union[Id, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ..., expected_shape: _Optional[_Union[Shape, _Mapping]] = ...) -> None: ...

class ArgList(_message.Message):
    __slots__ = ("args",)
    ARGS_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedCompositeFieldContainer[Arg]
    def __init__(self, args: _Optional[_Iterable[_Union[Arg, _Mapping]]] = ...) -> None: ...

class Arg(_message.Message):
    __slots__ = ("arg_bool", "arg_int", "arg_float", "arg_str", "arg_shape", "arg_tensor", "arg_torch_param", "arg_placeholder", "arg_placeholder_id", "arg_list")
    ARG_BOOL_FIELD_NUMBER: _ClassVar[int]
    ARG_INT_FIELD_NUMBER: _ClassVar[int]
    ARG_FLOAT_FIELD_NUMBER: _ClassVar[int]
    ARG_STR_FIELD_NUMBER: _ClassVar[int]
    ARG_SHAPE_FIELD_NUMBER: _ClassVar[int]
    ARG_TENSOR_FIELD_NUMBER: _ClassVar[int]
    ARG_TORCH_PARAM_FIELD_NUMBER: _ClassVar[int]
    ARG_PLACEHOLDER_FIELD_NUMBER: _ClassVar[int]
    ARG_PLACEHOLDER_ID_FIELD_NUMBER: _ClassVar[int]
    ARG_LIST_FIELD_NUMBER: _ClassVar[int]
    arg_bool: bool
    arg_int: int
    arg_float: float
    arg_str: str
    arg_shape: Shape
    arg_tensor: TorchTensor
    arg_torch_param: Parameter
    arg_placeholder: Placeholder
    arg_placeholder_id: PlaceholderId
    arg_list: ArgList
    def __init__(self, arg_bool: _Optional[bool] = ..., arg_int: _Optional[int] = ..., arg_float: _Optional[float] = ..., arg_str: _Optional[str] = ..., arg_shape: _Optional[_Union[Shape, _Mapping]] = ..., arg_tensor: _Optional[_Union[TorchTensor, _Mapping]] = ..., arg_torch_param: _Optional[_Union[Parameter, _Mapping]] = ..., arg_placeholder: _Optional[_Union[Placeholder, _Mapping]] = ..., arg_placeholder_id: _Optional[_Union[PlaceholderId, _Mapping]] = ..., arg_list: _Optional[_Union[ArgList, _Mapping]] = ...) -> None: ...

class ComputationAction(_message.Message):
    __slots__ = ("command", "target_placeholder_id", "target_tensor", "target_id", "args", "kwargs", "return_ids", "return_placeholder_ids")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Arg
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Arg, _Mapping]] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TARGET_PLACEHOLDER_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_TENSOR_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    RETURN_IDS_FIELD_NUMBER: _ClassVar[int]
    RETURN_PLACEHOLDER_IDS_FIELD_NUMBER: _ClassVar[int]
    command: str
    target_placeholder_id: PlaceholderId
    target_tensor: TorchTensor
    target_id: Id
    args: _containers.RepeatedCompositeFieldContainer[Arg]
    kwargs: _containers.MessageMap[str, Arg]
    return_ids: _containers.RepeatedCompositeFieldContainer[Id]
    return_placeholder_ids: _containers.RepeatedCompositeFieldContainer[PlaceholderId]
    def __init__(self, command: _Optional[str] = ..., target_placeholder_id: _Optional[_Union[PlaceholderId, _Mapping]] = ..., target_tensor: _Optional[_Union[TorchTensor, _Mapping]] = ..., target_id: _Optional[_Union[Id, _Mapping]] = ..., args: _Optional[_Iterable[_Union[Arg, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, Arg]] = ..., return_ids: _Optional[_Iterable[_Union[Id, _Mapping]]] = ..., return_placeholder_ids: _Optional[_Iterable[_Union[PlaceholderId, _Mapping]]] = ...) -> None: ...

class Role(_message.Message):
    __slots__ = ("id", "actions", "state", "placeholders", "input_placeholder_ids", "output_placeholder_ids", "tags", "description")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PLACEHOLDERS_FIELD_NUMBER: _ClassVar[int]
    INPUT_PLACEHOLDER_IDS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PLACEHOLDER_IDS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    id: Id
    actions: _containers.RepeatedCompositeFieldContainer[ComputationAction]
    state: State
    placeholders: _containers.RepeatedCompositeFieldContainer[Placeholder]
    input_placeholder_ids: _containers.RepeatedCompositeFieldContainer[Id]
    output_placeholder_ids: _containers.RepeatedCompositeFieldContainer[Id]
    tags: _containers.RepeatedScalarFieldContainer[str]
    description: str
    def __init__(self, id: _Optional[_Union[Id, _Mapping]] = ..., actions: _Optional[_Iterable[_Union[ComputationAction, _Mapping]]] = ..., state: _Optional[_Union[State, _Mapping]] = ..., placeholders: _Optional[_Iterable[_Union[Placeholder, _Mapping]]] = ..., input_placeholder_ids: _Optional[_Iterable[_Union[Id, _Mapping]]] = ..., output_placeholder_ids: _Optional[_Iterable[_Union[Id, _Mapping]]] = ..., tags: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ...) -> None: ...

class InputTypeDescriptor(_message.Message):
    __slots__ = ("type_name",)
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    type_name: str
    def __init__(self, type_name: _Optional[str] = ...) -> None: ...

class NestedTypeWrapper(_message.Message):
    __slots__ = ("nested_types",)
    class TypeList(_message.Message):
        __slots__ = ("nested_types",)
        NESTED_TYPES_FIELD_NUMBER: _ClassVar[int]
        nested_types: _containers.RepeatedCompositeFieldContainer[NestedTypeWrapper]
        def __init__(self, nested_types: _Optional[_Iterable[_Union[NestedTypeWrapper, _Mapping]]] = ...) -> None: ...
    class TypeTuple(_message.Message):
        __slots__ = ("nested_types",)
        NESTED_TYPES_FIELD_NUMBER: _ClassVar[int]
        nested_types: _containers.RepeatedCompositeFieldContainer[NestedTypeWrapper]
        def __init__(self, nested_types: _Optional[_Iterable[_Union[NestedTypeWrapper, _Mapping]]] = ...) -> None: ...
    class TypeMap(_message.Message):
        __slots__ = ("nested_types",)
        class NestedTypesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: NestedTypeWrapper
            def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[NestedTypeWrapper, _Mapping]] = ...) -> None: ...
        NESTED_TYPES_FIELD_NUMBER: _ClassVar[int]
        nested_types: _containers.MessageMap[str, NestedTypeWrapper]
        def __init__(self, nested_types: _Optional[_Mapping[str, NestedTypeWrapper]] = ...) -> None: ...
    class TypeContainer(_message.Message):
        __slots__ = ("nested_type", "nested_type_list", "nested_type_tuple", "nested_type_dict")
        NESTED_TYPE_FIELD_NUMBER: _ClassVar[int]
        NESTED_TYPE_LIST_FIELD_NUMBER: _ClassVar[int]
        NESTED_TYPE_TUPLE_FIELD_NUMBER: _ClassVar[int]
        NESTED_TYPE_DICT_FIELD_NUMBER: _ClassVar[int]
        nested_type: InputTypeDescriptor
        nested_type_list: NestedTypeWrapper.TypeList
        nested_type_tuple: NestedTypeWrapper.TypeTuple
        nested_type_dict: NestedTypeWrapper.TypeMap
        def __init__(self, nested_type: _Optional[_Union[InputTypeDescriptor, _Mapping]] = ..., nested_type_list: _Optional[_Union[NestedTypeWrapper.TypeList, _Mapping]] = ..., nested_type_tuple: _Optional[_Union[NestedTypeWrapper.TypeTuple, _Mapping]] = ..., nested_type_dict: _Optional[_Union[NestedTypeWrapper.TypeMap, _Mapping]] = ...) -> None: ...
    NESTED_TYPES_FIELD_NUMBER: _ClassVar[int]
    nested_types: NestedTypeWrapper.TypeContainer
    def __init__(self, nested_types: _Optional[_Union[NestedTypeWrapper.TypeContainer, _Mapping]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("id", "role", "include_state", "name", "tags", "description", "torchscript", "input_types", "base_framework", "roles")
    class RolesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Role
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Role, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STATE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TORCHSCRIPT_FIELD_NUMBER: _ClassVar[int]
    INPUT_TYPES_FIELD_NUMBER: _ClassVar[int]
    BASE_FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    id: Id
    role: Role
    include_state: bool
    name: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    description: str
    torchscript: bytes
    input_types: NestedTypeWrapper
    base_framework: str
    roles: _containers.MessageMap[str, Role]
    def __init__(self, id: _Optional[_Union[Id, _Mapping]] = ..., role: _Optional[_Union[Role, _Mapping]] = ..., include_state: _Optional[bool] = ..., name: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ..., torchscript: _Optional[bytes] = ..., input_types: _Optional[_Union[NestedTypeWrapper, _Mapping]] = ..., base_framework: _Optional[str] = ..., roles: _Optional[_Mapping[str, Role]] = ...) -> None: ...

class Protocol(_message.Message):
    __slots__ = ("id", "name", "roles", "tags", "description")
    class RolesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Role
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Role, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    id: Id
    name: str
    roles: _containers.MessageMap[str, Role]
    tags: _containers.RepeatedScalarFieldContainer[str]
    description: str
    def __init__(self, id: _Optional[_Union[Id, _Mapping]] = ..., name: _Optional[str] = ..., roles: _Optional[_Mapping[str, Role]] = ..., tags: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ...) -> None: ...
