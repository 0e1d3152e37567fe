# django-oauth-toolkit on loopback, as a stranger would run it: refresh tokens rotate, a spent one is answered with the
# same pair for a while, after that its family ends; an old access token dies at the rotation.
#
#   python3 server.py     reads its settings as one JSON object from the environment variable SETTINGS:
#                         { clientId, clientSecret, accessTokenTtl, graceSeconds, database }
#
# The first line on stdout says where it listens: {"url": "…"}. Everything else goes to stderr. Besides the server's own
# endpoints under /o/ there are two doors for what it alone knows and can do:
#   POST /admin/issue?user=NAME     a grant for a new account, as if its consent had just been given
#   GET  /admin/is-live?token=AT    whether the access token is good

import json
import os
import sys
import uuid
from datetime import timedelta
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings

told = json.loads(os.environ["SETTINGS"])
settings.configure(
    DEBUG=False,
    SECRET_KEY="end-to-end",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    MIDDLEWARE=[],
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": told["database"],
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": told["accessTokenTtl"],
        "ROTATE_REFRESH_TOKEN": True,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": told["graceSeconds"],
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "SCOPES": {"read": "read"},
    },
)
django.setup()

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.http import JsonResponse
from django.urls import include, path
from django.utils import timezone
from oauth2_provider.models import AccessToken, Application, RefreshToken

call_command("migrate", verbosity=0)
application = Application.objects.create(
    name="token-broker",
    client_id=told["clientId"],
    client_secret=told["clientSecret"],
    client_type=Application.CLIENT_CONFIDENTIAL,
    authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
    redirect_uris="http://127.0.0.1/callback",
)


def issue(request):
    user = get_user_model().objects.create_user(username=request.GET["user"])
    access = AccessToken.objects.create(
        user=user,
        application=application,
        token=uuid.uuid4().hex,
        scope="read",
        expires=timezone.now() + timedelta(seconds=told["accessTokenTtl"]),
    )
    refresh = RefreshToken.objects.create(
        user=user, application=application, token=uuid.uuid4().hex, access_token=access, token_family=uuid.uuid4()
    )
    return JsonResponse({"access_token": access.token, "refresh_token": refresh.token})


def is_live(request):
    token = AccessToken.objects.filter(token=request.GET["token"]).first()
    return JsonResponse({"live": token is not None and token.is_valid()})


urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("admin/issue", issue),
    path("admin/is-live", is_live),
]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Handler(WSGIRequestHandler):
    def log_message(self, *words):
        print(*words, file=sys.stderr)


from django.core.wsgi import get_wsgi_application

server = make_server("127.0.0.1", 0, get_wsgi_application(), server_class=Server, handler_class=Handler)
print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
server.serve_forever()
