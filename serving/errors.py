"""Every refusal of the server, each with a status and a stable label.

`serving.problems` puts them on the wire.
"""

import math

from superres.common.errors import SharplineError


class ServingError(SharplineError):
    """A request that gets no picture; the message is the `detail` that its client reads."""

    status = 500
    label = "internal-error"
    advice = "The server failed; the same request may work later."

    def headers(self) -> dict[str, str]:
        return {}


class ClientError(ServingError):
    """The request itself is at fault; sending it again unchanged will not help."""

    status = 400
    label = "bad-request"
    advice = "Correct the request as the detail says."


class EmptyBody(ClientError):
    label = "empty-body"
    advice = "Send the picture's bytes as the body, or as the field `file` of a multipart form."


class BadMultipart(ClientError):
    label = "bad-multipart"
    advice = "Send multipart/form-data with a boundary, few parts and the picture in `file`."


class BadKey(ClientError):
    status, label = 401, "bad-key"
    advice = "Send `Authorization: Bearer KEY` with a key that `sharpline keys add` has made."

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class WrongHost(ClientError):
    status, label = 421, "wrong-host"
    advice = "The server does not go by this name; add it to SHARPLINE_SECURITY__ALLOW_HOSTS."


class CrossSite(ClientError):
    status, label = 403, "cross-site"
    advice = "Pages of other sites may not call; allow theirs in SHARPLINE_SECURITY__ALLOW_ORIGINS."


class NotFound(ClientError):
    status, label = 404, "not-found"
    advice = "See /docs for the addresses that exist."


class UnknownModel(ClientError):
    status, label = 404, "unknown-model"
    advice = "GET /v1/models lists the models that are served."


class MethodNotAllowed(ClientError):
    status, label = 405, "method-not-allowed"
    advice = "See /docs for the methods of each address."


class NotAcceptable(ClientError):
    status, label = 406, "not-acceptable"
    advice = "Accept one of the media types that /docs lists, or name a `format`."


class SlowBody(ClientError):
    status, label = 408, "slow-body"
    advice = "The body took too long to arrive; send it faster or send a smaller one."


class EncodedBody(ClientError):
    status, label = 415, "encoded-body"
    advice = "Send the picture without Content-Encoding; pictures are compressed already."


class ClientGone(ClientError):
    status, label = 499, "client-gone"  # nginx's number; nobody is left to read it
    advice = "The client closed the connection before its answer was ready."


class BadOptions(ClientError):
    status, label = 422, "bad-options"
    advice = "Correct the options that the detail names; /docs lists them."


class AnswerTooLarge(ClientError):
    status, label = 422, "answer-too-large"
    advice = "Send a smaller picture, choose a smaller scale, or ask for on_too_large=shrink."


class UnknownJob(ClientError):
    status, label = 404, "unknown-job"
    advice = "There is no such job of yours; one that is over is forgotten after its time to live."


class UnknownUpload(ClientError):
    status, label = 404, "unknown-upload"
    advice = "Announce the picture with POST /v1/uploads and use the address that it answers."


class JobNotFinished(ClientError):
    status, label = 409, "job-not-finished"
    advice = "Ask for the job's state, or follow its events, and fetch the result once it is done."


class JobGone(ClientError):
    status, label = 410, "job-gone"
    advice = "The job was deleted, with its pictures; send the picture again for another result."


class UploadGone(ClientError):
    status, label = 410, "upload-gone"
    advice = "An upload serves one job within its time; announce the picture again."


class BadSignature(ClientError):
    status, label = 403, "bad-signature"
    advice = "Use the signed address as it was given; it ends at the time that it names."


class ForbiddenAddress(ClientError):
    status, label = 403, "forbidden-address"
    advice = "A webhook goes to public addresses; allow others in SHARPLINE_JOBS__WEBHOOK_NETWORKS."


class BadTensor(ClientError):
    label = "bad-tensor"
    advice = "Send one input `image` of shape [1, height, width, 3], UINT8 or FP32 from 0 to 1."


class IdempotencyKeyReused(ClientError):
    status, label = 422, "idempotency-key-reused"
    advice = "Use a new Idempotency-Key for another request; repeat a request unchanged."


class UploadMismatch(ClientError):
    status, label = 422, "upload-mismatch"
    advice = "The bytes are not those that were announced; nothing was kept, send them again."


class StorageFull(ServingError):
    status, label = 507, "storage-full"
    advice = "The server's disk is full; nothing was kept. Its keeper has to make room."


class JobFailed(ServingError):
    label = "job-failed"
    advice = "The job was begun several times and never ended; the server's log has more."


class RetryLater(ServingError):
    """The server cannot take the request now; `seconds` is when to come back."""

    status, label = 503, "unavailable"
    advice = "Send the same request again after Retry-After seconds."

    def __init__(self, message: str, *, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(max(1, math.ceil(self.seconds)))}


class QueueFull(RetryLater):
    status, label = 429, "queue-full"


class QuotaExceeded(RetryLater):
    status, label = 429, "quota-exceeded"


class NotReady(RetryLater):
    label = "not-ready"


class Draining(RetryLater):
    label = "draining"


class DeadlinePassed(ServingError):
    status, label = 504, "deadline-passed"
    advice = "The answer was not ready in time; try again when the server has less to do."


class ModelFailed(ServingError):
    label = "model-failed"
    advice = "The network failed on this picture's tiles; the server's log has the reason."


class Inconsistent(ServingError):
    label = "inconsistent-answer"
    advice = "The answer did not fit its picture and was held back; the server's log has more."
