// A connection to Cairn from Node, and what the programs beside it share.
//
// It needs two packages, installed here, and the .proto files of the repository, of
// which proto-loader makes the stubs when the program starts:
//
//     npm ci
//
// Field names are lowerCamelCase, enums are strings, and int64 is a number: no size
// in Cairn comes near 2^53.
'use strict';

const path = require('node:path');
const fs = require('node:fs');
const { promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

// Where the .proto files are; CAIRN_PROTO is for a copy of this file elsewhere.
const proto = process.env.CAIRN_PROTO || path.join(__dirname, '../../../../../proto');
const files = fs.readdirSync(path.join(proto, 'cairn/v1')).filter((f) => f.endsWith('.proto'));
const definition = protoLoader.loadSync([...files.map((f) => `cairn/v1/${f}`), 'errors.proto'], {
  includeDirs: [proto, path.join(__dirname, '..')],
  longs: Number,
  enums: String,
  defaults: true,
});
const v1 = grpc.loadPackageDefinition(definition).cairn.v1;

// connect gives a stub per service, over one connection. address is HOST:PORT or
// unix:/path/of/cairnd.sock. Calls with one answer return a promise of it; those
// that stream return a stream, for "for await".
function connect(address) {
  const channelOverride = new grpc.Channel(address, grpc.credentials.createInsecure(), { 'grpc.max_receive_message_length': 8 << 20 });
  const cairn = { close: () => channelOverride.close() };
  for (const [name, Stub] of Object.entries(v1)) {
    if (!Stub.service) continue; // a message
    const stub = new Stub(address, null, { channelOverride });
    for (const { originalName: method, requestStream, responseStream } of Object.values(Stub.service)) {
      if (!requestStream && !responseStream) stub[method] = promisify(stub[method]).bind(stub);
    }
    cairn[name] = stub;
  }
  return cairn;
}

// details is what an error says for programs: reason, from the published enum
// ErrorReason ("VAULT_NOT_FOUND"), the variables of its message, and the wrong
// fields, each with the rule.
function details(error) {
  const found = { reason: '', metadata: {}, fields: {} };
  for (const packed of error.metadata?.get('grpc-status-details-bin') ?? []) {
    for (const { type_url: typeUrl, value } of decode('google.rpc.Status', packed).details) {
      const type = typeUrl.split('/').pop();
      if (type === 'google.rpc.ErrorInfo') {
        const info = decode(type, value);
        found.reason = info.reason.replace('ERROR_REASON_', '');
        found.metadata = info.metadata;
      } else if (type === 'google.rpc.BadRequest') {
        for (const v of decode(type, value).fieldViolations) found.fields[v.field] = v.description;
      }
    }
  }
  return found;
}

const decode = (type, bytes) => definition[type].deserialize(bytes);

module.exports = { connect, details, grpc };
