// Package cairnv1 is the generated Go code of Cairn's public API, cairn.v1: the
// messages and services that every client, in any language, speaks.
//
// The .proto files beside it are the reference: types.proto begins with the
// conventions that hold for all services (names, sizes, request ids, etags,
// paging, errors), block_service.proto with the walk through a backup. Only
// google/protobuf/* is imported there, so that the directory can be handed to
// any protoc as it is:
//
//	protoc -I proto --python_out=OUT proto/cairn/v1/*.proto
//
// The API is a promise: fields, enum values and RPCs are added, never renamed,
// renumbered or given another meaning, and `buf breaking` watches over that.
// Generated files are committed and must be fresh; see proto/buf.gen.yaml.
package cairnv1
