"""What Mixer demands of the descriptor sets inside `template` and `adapter` resources."""

import base64
import re

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.unknown_fields import UnknownFieldSet

FIELD = descriptor_pb2.FieldDescriptorProto
TEMPLATE_VARIETY, TEMPLATE_NAME = 72295727, 72295888
CHECK, REPORT = 0, 1

VALUE, TIMESTAMP, IP = (".istio.policy.v1beta1." + name for name in ("Value", "TimeStamp", "IPAddress"))
MAP = "map<string, Value>"


def strings(**numbers):
    return {number: (name, "string") for name, number in numbers.items()}


NAME = {72295727: ("name", "string")}

# Each template as Mixer has it: variety, gRPC path, and its messages.
TEMPLATES = {
    "metric": (REPORT, "/metric.HandleMetricService/HandleMetric", {
        "InstanceMsg": {
            **NAME, 1: ("value", VALUE), 2: ("dimensions", MAP), 3: ("monitored_resource_type", "string"),
            4: ("monitored_resource_dimensions", MAP)}}),
    "logentry": (REPORT, "/logentry.HandleLogEntryService/HandleLogEntry", {
        "InstanceMsg": {
            **NAME, 1: ("variables", MAP), 2: ("timestamp", TIMESTAMP), 3: ("severity", "string"),
            4: ("monitored_resource_type", "string"), 5: ("monitored_resource_dimensions", MAP)}}),
    "authorization": (CHECK, "/authorization.HandleAuthorizationService/HandleAuthorization", {
        "InstanceMsg": {**NAME, 1: ("subject", ".authorization.SubjectMsg"), 2: ("action", ".authorization.ActionMsg")},
        "SubjectMsg": {**strings(user=1, groups=2), 3: ("properties", MAP)},
        "ActionMsg": {**strings(namespace=1, service=2, method=3, path=4), 5: ("properties", MAP)}}),
    "tracespan": (REPORT, "/tracespan.HandleTraceSpanService/HandleTraceSpan", {
        "InstanceMsg": {
            **NAME, **strings(trace_id=1, span_id=2, parent_span_id=3, span_name=4), 5: ("start_time", TIMESTAMP),
            6: ("end_time", TIMESTAMP), 7: ("span_tags", MAP), 8: ("httpStatusCode", "int64"),
            9: ("client_span", "bool"), 10: ("rewrite_client_span_id", "bool"), 11: ("source_name", "string"),
            12: ("source_ip", IP), 13: ("destination_name", "string"), 14: ("destination_ip", IP),
            15: ("request_size", "int64"), 16: ("request_total_size", "int64"), 17: ("response_size", "int64"),
            18: ("response_total_size", "int64"), 19: ("api_protocol", "string")}}),
    "edge": (REPORT, "/edge.HandleEdgeService/HandleEdge", {
        "InstanceMsg": {
            **NAME, 1: ("timestamp", TIMESTAMP),
            **strings(
                source_workload_namespace=10, source_workload_name=11, source_owner=12, source_uid=13,
                destination_workload_namespace=20, destination_workload_name=21, destination_owner=22,
                destination_uid=23, destination_service_namespace=24, destination_service_name=25,
                context_protocol=30, api_protocol=31)}}),
    "reportnothing": (REPORT, "/reportnothing.HandleReportNothingService/HandleReportNothing", {"InstanceMsg": NAME}),
    "checknothing": (CHECK, "/checknothing.HandleCheckNothingService/HandleCheckNothing", {"InstanceMsg": NAME}),
}
RESULTS = {
    REPORT: ".istio.mixer.adapter.model.v1beta1.ReportResult",
    CHECK: ".istio.mixer.adapter.model.v1beta1.CheckResult",
}


class Set:
    """A decoded FileDescriptorSet, with every message and enum by its full name."""

    def __init__(self, text):
        self.raw = base64.b64decode(text, validate=True)
        self.files = descriptor_pb2.FileDescriptorSet.FromString(self.raw).file
        self.messages, self.enums = {}, {}
        for file in self.files:
            self._gather("." + file.package, file.message_type, file.enum_type)

    def _gather(self, scope, messages, enums):
        self.enums.update((f"{scope}.{enum.name}", enum) for enum in enums)
        for message in messages:
            name = f"{scope}.{message.name}"
            self.messages[name] = message
            self._gather(name, message.nested_type, message.enum_type)

    def field(self, message, key):
        """A field as Mixer finds it: by name or by JSON name."""
        return next((f for f in self.messages[message].field if key in (f.name, f.json_name)), None)

    def entry(self, field):
        """The entry type of a map field, None for any other."""
        message = self.messages.get(field.type_name)
        return message if message is not None and message.options.map_entry else None

    def kind(self, field):
        """The type in words, as the tables above have it."""
        entry = self.entry(field)
        if entry is not None:
            key, value = ({f.number: self.kind(f) for f in entry.field}[n] for n in (1, 2))
            return MAP if (key, value) == ("string", VALUE) else f"map<{key}, {value}>"
        repeated = "repeated " if field.label == FIELD.LABEL_REPEATED else ""
        return repeated + (field.type_name or FIELD.Type.Name(field.type)[5:].lower())

    def problems(self):
        """What would trip any reader, and Mixer's in particular."""
        pool, seen = descriptor_pool.DescriptorPool(), set()
        for file in self.files:
            yield from (f"{file.name} comes before its import {d}" for d in file.dependency if d not in seen)
            if file.HasField("source_code_info"):
                yield f"{file.name} carries source info"
            seen.add(file.name)
        if not any(True for file in self.files for d in file.dependency if d not in seen):
            try:
                for file in self.files:
                    pool.Add(file)
                    pool.FindFileByName(file.name)
            except Exception as error:  # the pool's own words are the finding
                yield f"does not link: {error}"
        for name, message in self.messages.items():
            for field in message.field:
                if not field.HasField("json_name"):
                    yield f"{name}.{field.name} has no json_name, which Mixer dereferences"
                if field.type_name and field.type_name not in self.messages | self.enums:
                    yield f"{name}.{field.name}: {field.type_name} is not in the set"


def extensions(options):
    """The fields of a FileOptions that it doesn't know: {number: value}."""
    return {field.field_number: field.data for field in UnknownFieldSet(options)}


def template_problems(name, text):
    """What Mixer would refuse in, or misread from, the descriptor of template `name`."""
    descriptors = Set(text)
    yield from descriptors.problems()
    variety, path, messages = TEMPLATES[name]
    marked = [file for file in descriptors.files if TEMPLATE_VARIETY in extensions(file.options)]
    if len(marked) != 1:
        yield f"{len(marked)} files have a template_variety, wanted exactly one"
        return
    file = marked[0]
    options = extensions(file.options)
    if options[TEMPLATE_VARIETY] != variety:
        yield f"template_variety is {options[TEMPLATE_VARIETY]}, wanted {variety}"
    template_name = options.get(TEMPLATE_NAME, b"").decode()
    if not re.fullmatch("[a-zA-Z]+", template_name) or template_name != name:
        yield f"template_name is {template_name!r}, wanted {name!r}"
    services = [(f, s) for f in descriptors.files for s in f.service if s.name.startswith("Handle")]
    if not services or services[0][0] is not file:
        yield "the first service named Handle... is not the template's"
        return
    service = services[0][1]
    method = service.method[0]
    if (found := f"/{file.package}.{service.name}/{method.name}") != path:
        yield f"the path is {found}, wanted {path}"
    if method.output_type != RESULTS[variety] or method.output_type not in descriptors.messages:
        yield f"{method.name} answers {method.output_type}"
    instance = {1: ("instances", f"repeated .{name}.InstanceMsg")} if variety == REPORT \
        else {1: ("instance", f".{name}.InstanceMsg")}
    request = {**instance, 2: ("adapter_config", ".google.protobuf.Any"), 3: ("dedup_id", "string")}
    for message, wanted in {**messages, method.name + "Request": request}.items():
        full = f".{name}.{message}"
        if full not in descriptors.messages:
            yield f"{full} is missing"
            continue
        found = {f.number: (f.name, descriptors.kind(f)) for f in descriptors.messages[full].field}
        if found != wanted:
            yield f"{full} has {sorted(set(found.items()) ^ set(wanted.items()))} too many or too few"
    if method.input_type != f".{name}.{method.name}Request":
        yield f"{method.name} takes {method.input_type}"
    if len(descriptors.raw) > 4096:
        yield f"{len(descriptors.raw)} bytes: over the budget of 4096"


def adapter_problems(text):
    """What Mixer would refuse in the config descriptor of an adapter."""
    descriptors = Set(text)
    yield from descriptors.problems()
    holders = [file for file in descriptors.files if any(m.name == "Params" for m in file.message_type)]
    if [file.package for file in holders] != ["mygrpcadapter.config.v1"]:
        yield f"Params is in {[file.package for file in holders]}"
    for name, message in descriptors.messages.items():
        for field in message.field:
            if field.type in (FIELD.TYPE_BYTES, FIELD.TYPE_GROUP):
                yield f"{name}.{field.name}: Mixer writes no such type"
    if len(descriptors.raw) > 2048:
        yield f"{len(descriptors.raw)} bytes: over the budget of 2048"
