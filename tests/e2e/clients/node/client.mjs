// A Node client of the broker: client.mjs PROVIDER CONNECTION UNKNOWN_CONNECTION.
//
// Loads proto/, gets a token at TOKEN_BROKER_ENDPOINT, asks for one that does not exist, and prints what it was told
// as JSON.

import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

// The packages are installed in a cache, not beside this file.
const require = createRequire(pathToFileURL(`${process.env.PACKAGES}/`));
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const proto = fileURLToPath(new URL('../../../../proto', import.meta.url));

function load(files) {
  return protoLoader.loadSync(files, { includeDirs: [proto], defaults: true });
}

const { tokenbroker } = grpc.loadPackageDefinition(load(['tokenbroker/v1/token_broker.proto']));

// `unix:///path` is an address that grpc-js knows; its authority is `localhost` without being told.
const [, scheme, address] = process.env.TOKEN_BROKER_ENDPOINT.match(/^(unix|tcp):\/\/(.*)$/);
const target = scheme === 'unix' ? `unix://${address}` : address;
const broker = new tokenbroker.v1.TokenBrokerService(target, grpc.credentials.createInsecure());

function getAccessToken(provider, connection) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 30_000;
    broker.getAccessToken({ provider, connection }, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// The first event of a watch, which then is hung up.
function firstWatched(provider, connection) {
  return new Promise((resolve, reject) => {
    const watch = broker.watchAccessToken({ provider, connection });
    watch.on('error', reject);
    watch.once('data', (event) => {
      resolve(event.token.accessToken);
      watch.removeAllListeners('error').on('error', () => {});
      watch.cancel();
    });
  });
}

function told(error) {
  const root = new protobuf.Root();
  root.resolvePath = (_origin, file) => `${proto}/${file}`;
  root.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto']);
  const Status = root.lookupType('google.rpc.Status');
  const ErrorInfo = root.lookupType('google.rpc.ErrorInfo');
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  const detail = Status.decode(bytes).details.find((any) => any.type_url.endsWith('/google.rpc.ErrorInfo'));
  const { reason, domain, metadata } = ErrorInfo.decode(detail.value);
  const { provider, connection } = metadata;
  return { code: grpc.status[error.code], reason, domain, metadata: { provider, connection } };
}

const [provider, connection, unknown] = process.argv.slice(2);
const { accessToken, tokenType } = await getAccessToken(provider, connection);
const watched = await firstWatched(provider, connection);
const error = await getAccessToken(provider, unknown).then(() => undefined, told);
broker.close();
console.log(JSON.stringify({ accessToken, tokenType, watched, error }));
