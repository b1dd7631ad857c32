"""The server's errors, each with an HTTP status and a stable label.

`serving.problems` turns them into responses.
"""

import math

from superres.common.errors import SharplineError


class ServingError(SharplineError):
    """A request that fails; the message is the `detail` of its problem response."""

    status = 500
    label = "internal-error"
    advice = "The server failed; the same request may work later."

    def headers(self) -> dict[str, str]:
        return {}


class ClientError(ServingError):
    """The request is invalid; a retry of the same request fails too."""

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
    advice = "Send `Authorization: Bearer KEY` with a key made by `sharpline keys add`."

    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class WrongHost(ClientError):
    status, label = 421, "wrong-host"
    advice = "The Host header is not allowed; add the name to SHARPLINE_SECURITY__ALLOW_HOSTS."


class CrossSite(ClientError):
    status, label = 403, "cross-site"
    advice = "The page's origin is not allowed; add it to SHARPLINE_SECURITY__ALLOW_ORIGINS."


class NotFound(ClientError):
    status, label = 404, "not-found"
    advice = "See /docs for the existing paths."


class UnknownModel(ClientError):
    status, label = 404, "unknown-model"
    advice = "GET /v1/models lists the served models."


class MethodNotAllowed(ClientError):
    status, label = 405, "method-not-allowed"
    advice = "See /docs for the methods of each path."


class NotAcceptable(ClientError):
    status, label = 406, "not-acceptable"
    advice = "Accept one of the media types that /docs lists, or set `format`."


class SlowBody(ClientError):
    status, label = 408, "slow-body"
    advice = "The body took too long to arrive; send it faster or send a smaller one."


class EncodedBody(ClientError):
    status, label = 415, "encoded-body"
    advice = "Send the picture without Content-Encoding; pictures are compressed already."


class ClientGone(ClientError):
    status, label = 499, "client-gone"  # nginx's status code; no client receives it
    advice = "The client closed the connection before the response was ready."


class BadOptions(ClientError):
    status, label = 422, "bad-options"
    advice = "Correct the options that the detail names; /docs lists them."


class OutputTooLarge(ClientError):
    status, label = 422, "output-too-large"
    advice = "Send a smaller picture, choose a smaller scale, or ask for on_too_large=shrink."


class UnknownJob(ClientError):
    status, label = 404, "unknown-job"
    advice = "You have no such job; a finished job is deleted after its time to live."


class UnknownUpload(ClientError):
    status, label = 404, "unknown-upload"
    advice = "Create an upload with POST /v1/uploads and use the URL of its response."


class JobNotFinished(ClientError):
    status, label = 409, "job-not-finished"
    advice = "Poll the job's state or follow its events; fetch the result once the job is done."


class JobGone(ClientError):
    status, label = 410, "job-gone"
    advice = "The job and its pictures were deleted; submit the picture again."


class UploadGone(ClientError):
    status, label = 410, "upload-gone"
    advice = "An upload can be used by one job before it expires; create another upload."


class BadSignature(ClientError):
    status, label = 403, "bad-signature"
    advice = "Use the signed URL unchanged and before it expires."


class ForbiddenAddress(ClientError):
    status, label = 403, "forbidden-address"
    advice = "Webhooks need a public address; allow others in SHARPLINE_JOBS__WEBHOOK_NETWORKS."


class BadTensor(ClientError):
    label = "bad-tensor"
    advice = "Send one input `image` of shape [1, height, width, 3], UINT8 or FP32 from 0 to 1."


class IdempotencyKeyReused(ClientError):
    status, label = 422, "idempotency-key-reused"
    advice = "Use a new Idempotency-Key for another request; retry a request unchanged."


class UploadMismatch(ClientError):
    status, label = 422, "upload-mismatch"
    advice = "The size or sha256 differs from the upload's; nothing was stored, send it again."


class StorageFull(ServingError):
    status, label = 507, "storage-full"
    advice = "The server's disk is full and nothing was stored; its operator has to free space."


class JobFailed(ServingError):
    label = "job-failed"
    advice = "The job was started several times and never finished; see the server's log."


class RetryLater(ServingError):
    """The server cannot accept the request now; `seconds` is the time until a retry."""

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
    advice = "The answer was not ready in time; retry when the server is less busy."


class ModelFailed(ServingError):
    label = "model-failed"
    advice = "The network failed on this picture's tiles; see the server's log for the reason."


class InconsistentOutput(ServingError):
    label = "inconsistent-output"
    advice = "The answer did not match its picture and was discarded; see the server's log."
