// node-oidc-provider on loopback, as a stranger would run it: its own login and consent pages, strict rotation (a
// refresh token used twice ends the whole grant), userinfo and revocation.
//
//   node server.mjs       reads its settings as one JSON object from the environment variable SETTINGS:
//                         { clientId, clientSecret, redirectUris, accessTokenTtl }
//
// The first line on stdout says where it listens: {"issuer": "…", "admin": "…"}. Everything else goes to stderr.
// The admin door tells and does what the authorization server alone knows and can do:
//   GET  /token-requests   every request the token endpoint has answered, oldest first
//   GET  /secrets          every secret that client and token endpoint have told each other, by name
//   POST /end-grants       the account's owner takes back every consent
//   POST /access-token-ttl?seconds=N   access tokens issued from now on live that long

import { once } from 'node:events';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// Notices of the library are no result of ours.
console.info = console.error;

// The packages are installed in a cache, not beside this file.
const require = createRequire(pathToFileURL(`${process.env.PACKAGES}/`));
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const settings = JSON.parse(process.env.SETTINGS);
let accessTokenTtl = settings.accessTokenTtl;

async function listen(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

const server = createServer();
const issuer = await listen(server);

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: settings.clientId,
      client_secret: settings.clientSecret,
      token_endpoint_auth_method: 'client_secret_basic',
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      // A native client's loopback redirect matches whatever its port is (RFC 8252, section 7.3).
      application_type: 'native',
      redirect_uris: settings.redirectUris,
    },
  ],
  // Dead is dead: no grace for clocks that differ.
  clockTolerance: 0,
  cookies: { keys: ['end-to-end'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  scopes: ['openid', 'offline_access', 'email'],
  features: { devInteractions: { enabled: true }, revocation: { enabled: true }, userinfo: { enabled: true } },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: {
    AccessToken: () => accessTokenTtl,
    AuthorizationCode: 60,
    Grant: 3600,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
  findAccount: (_ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true }),
  }),
});

const tokenRequests = [];
const secrets = [];
const SECRET = ['code', 'code_verifier', 'access_token', 'refresh_token', 'id_token'];
const grants = new Set();

provider.use(async (ctx, next) => {
  await next();
  if (ctx.oidc?.route === 'token') {
    const { grant_type } = ctx.oidc.params ?? {};
    const { error } = ctx.status === 200 ? {} : (ctx.body ?? {});
    tokenRequests.push({ grant_type, status: ctx.status, error, client_authentication: ctx.headers.authorization?.split(' ')[0] });
    secrets.push(['credentials', ctx.headers.authorization?.split(' ')[1]]);
    for (const told of [ctx.oidc.params ?? {}, ctx.body ?? {}]) {
      secrets.push(...SECRET.filter((name) => told[name]).map((name) => [name, told[name]]));
    }
    if (ctx.oidc.entities.Grant) grants.add(ctx.oidc.entities.Grant.jti);
  }
});

server.on('request', provider.callback());

const admin = createServer(async (request, response) => {
  const answer = (status, body) => response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  const { pathname, searchParams } = new URL(request.url, issuer);
  switch (`${request.method} ${pathname}`) {
    case 'GET /token-requests':
      return answer(200, tokenRequests);
    case 'GET /secrets':
      return answer(200, secrets);
    case 'POST /access-token-ttl':
      accessTokenTtl = Number(searchParams.get('seconds'));
      return answer(200, {});
    case 'POST /end-grants': {
      const ended = [...grants];
      grants.clear();
      for (const id of ended) {
        await provider.AccessToken.revokeByGrantId(id);
        await provider.RefreshToken.revokeByGrantId(id);
        await provider.Grant.adapter.destroy(id);
      }
      return answer(200, { ended: ended.length });
    }
    default:
      return answer(404, {});
  }
});

console.log(JSON.stringify({ issuer, admin: await listen(admin) }));
