"""Asks a server for its services by reflection alone, and calls WorkerService.GetStatus with what it learned."""

import json
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main() -> None:
    with grpc.insecure_channel(sys.argv[1]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = sorted(database.get_services())
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("worker.WorkerService").FindMethodByName("GetStatus")
        call = channel.unary_unary(
            "/worker.WorkerService/GetStatus",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        status = call(GetMessageClass(method.input_type)(), timeout=10)
        answer = json_format.MessageToDict(
            status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    print(json.dumps({"services": services, "status": answer}))


if __name__ == "__main__":
    main()
