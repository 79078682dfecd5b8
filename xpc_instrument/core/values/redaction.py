"""What is never shown: values that lie under the name of a secret, or are of a type that holds one.

Names are compared in lower case without `-_ $@.`, and as a whole: `API-Key`, `api_key` and `apiKey` are one, `api_key_id` is another. Types
are compared by their names along the MRO. What is given beside the defaults is added to them; nothing lifts them.
"""

from __future__ import annotations

from builtins import any, len  # bound now: each may be the target of a hook
from typing import Dict, Iterable, List, Tuple

from ..model.raw import module_name, mro_of, qualname_of

_LEFT_OUT = str.maketrans("", "", "-_ $@.")
# A longer one is no name of a field.
_LONGEST = 64
_MOST_KNOWN = 4096
_MOST_PARTS = 10

_NAMES = """
2fa 2facode accesskey accesskeyid accesstoken accountkey adminpassword apikey apikeysecret apisecret apitoken appkey
applicationkey appsecret auth authcode authkey authorization authorizationheader authtoken awsaccesskeyid awssecretaccesskey
azurekey bankaccount bearer bearertoken bindpassword card cardcode cardcvc cardcvv cardnumber ccnumber certificate clientsecret
connectionstring consumersecret cookie cookies cookiesecret credential credentials creditcard creditcardnumber csrf
csrfmiddlewaretoken csrftoken currentpassword cvc cvv databaseurl dbpassword djangosecretkey dsn emailpassword encryptionkey
encryptionsecret githubtoken gpgkey hashsalt iban idtoken jsessionid jwt jwtsecret jwttoken keypassphrase masterkey mfacode
mysqlpassword newpassword nonce oauth oauthtoken oldpassword onetimecode otp pan pass passcode passphrase passwd password
password1 password2 passwordconfirmation passwordhash pgpassword pgpkey phpsessid pin pincode pinnumber postgrespassword
privatekey privatetoken proxyauthorization pwd rawpassword recoverycode redispassword refreshtoken rootpassword salt secret
secretaccesskey secretkey secrets secrettoken securitycode serviceaccountkey session sessionid sessionkey sessiontoken setcookie
sharedsecret signature signingkey signingsecret slacktoken smtppassword socialsecuritynumber sshkey ssn stripekey symmetrickey
token tokensecret totp twofactorcode userpassword vaulttoken verificationcode webhooksecret xapikey xauthtoken xcsrftoken
xforwardedauthorization xsrf xsrftoken xxsrftoken
"""
NAMES = frozenset(_NAMES.split())
TYPES = (
    "pydantic.types:Secret",
    "pydantic.types:SecretStr",
    "pydantic.types:SecretBytes",
    "starlette.datastructures:Secret",
    "botocore.credentials:Credentials",
)


def normal(name: str) -> str:
    """A name as it is compared."""
    return name.translate(_LEFT_OUT).lower()


class Redaction:
    """The names and types that hide a value, `NAMES` and `TYPES` among them. A type is `module:Name`, or `module.Name`.

    `more` has what was given beside the defaults.
    """

    def __init__(self, names: Iterable[str] = (), types: Iterable[str] = ()) -> None:
        self.more: Tuple[List[str], List[str]] = ([*names], [*types])
        names, types = self.more
        self._names = NAMES | {normal(name) for name in names}
        self._types = frozenset(one.replace(":", ".") for one in (*TYPES, *types))
        self.known: Dict[str, bool] = {}

    def hides(self, name: str) -> bool:
        """Whether what lies under that name is hidden. `known` has what was asked before."""
        known = self.known.get(name)
        if known is None:
            # Behind `__` stands what a private attribute is called in its class: `_Session__token`.
            parts = name.split("__")
            called = ["__".join(parts[place:]) for place in range(len(parts))] if len(parts) < _MOST_PARTS else [name]
            known = any(len(one) <= _LONGEST and normal(one) in self._names for one in called)
            if len(self.known) < _MOST_KNOWN and len(name) <= _LONGEST:
                self.known[name] = known
        return known

    def hides_type(self, cls: type) -> bool:
        """Whether an instance is hidden; who asks keeps the answer, no longer than it may keep the type."""
        return any(f"{module_name(one)}.{qualname_of(one)}" in self._types for one in mro_of(cls))
